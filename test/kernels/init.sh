#!/bin/busybox sh
# The first process of a guest: runs the test binary of each package that /packages lists and tells what they say
# at the second serial port. The first is the kernel's console. Lines that begin with @@ are for the host.
set -f
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp

mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for kind in tracefs:/sys/kernel/tracing bpf:/sys/fs/bpf securityfs:/sys/kernel/security cgroup2:/sys/fs/cgroup \
  tmpfs:/dev/shm tmpfs:/tmp tmpfs:/run; do
  mount -t "${kind%%:*}" "${kind%%:*}" "${kind#*:}"
done
chmod 1777 /tmp /dev/shm
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1

set +f
for module in /modules/*.ko; do
  insmod "$module" || echo "@@ problem cannot load $module" >&3
done
set -f
ip link set lo up
# The hard limit of the first process is 4096.
ulimit -n 65536
mkfs.ext4 -q -b 4096 /ext4.img 64M && mount -o loop /ext4.img /var/tmp && chmod 1777 /var/tmp ||
  echo "@@ problem no ext4" >&3

while read -r setting; do
  export "$setting"
done </environment

echo "@@ kernel $(uname -r)" >&3
while read -r package arguments; do
  echo "@@ start $package" >&3
  # Not at the terminal itself: a test's output is a pipe elsewhere, too.
  {
    cd "/src/$package" && ./test $arguments </dev/null 2>&1 3>&-
    echo "@@ end $package $?"
  } | cat >&3
done </packages
echo "@@ done" >&3
sync
poweroff -f
