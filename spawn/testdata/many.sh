#!/bin/sh
# Runs a program that dies by SIGKILL, again and again, each time with a path of its own:
#
#     many.sh DIR N PROGRAM...

dir=$1 n=$2
shift 2
i=0
while [ "$i" -lt "$n" ]; do
	"$@" "$dir/$i"
	[ $? = 137 ] || exit 1
	i=$((i + 1))
done
