#!/bin/sh
# Runs a program that dies by SIGKILL, again and again, each time with a path of its own:
#
#     many.sh DIR N PROGRAM...
#
# It is run again when it fails: on a busy machine the watcher's queue can stay full for longer than a reporter waits.

dir=$1 n=$2
shift 2
i=0 failed=0
while [ "$i" -lt "$n" ]; do
	"$@" "$dir/$i"
	if [ $? = 137 ]; then
		i=$((i + 1))
		continue
	fi
	failed=$((failed + 1))
	[ "$failed" -lt 100 ] || exit 1
	rm -f "$dir/$i"
done
