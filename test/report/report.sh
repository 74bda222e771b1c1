#!/bin/sh
# Binds a sock-file, reports it to the watcher, and dies at once by SIGKILL:
#
#     report.sh PATH [stay]
#
# With "stay" it sleeps instead, when it has reported. It needs sockwatch in $PATH.

# A shell cannot bind. Perl does, and becomes this shell again, the same process, with the socket as a descriptor.
if [ "$REPORT_BOUND" != "$$" ]; then
	exec perl -MSocket -e '
		$^F = 9; # no close-on-exec up to this descriptor
		socket(S, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!\n";
		bind(S, pack_sockaddr_un($ARGV[1])) or die "bind $ARGV[1]: $!\n";
		listen(S, 8) or die "listen: $!\n";
		$ENV{REPORT_BOUND} = $$;
		exec "/bin/sh", @ARGV' "$0" "$@"
fi

set -e
path=$1

# This shell has the socket: it was started with it, or has become from the program that bound it by exec.
sockwatch notify BIND="$path"

if [ "$2" = stay ]; then
	exec sleep infinity
fi
kill -9 $$
