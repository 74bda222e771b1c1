package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
)

// examineMachine finds out what this kernel and this user allow.
func examineMachine() []finding {
	return append([]finding{
		checkKernel(),
		checkUser(),
		checkPidfd(),
		checkPidfdInode(),
		checkPidfdExit(),
		works("peer-pidfd", "SO_PEERPIDFD and SCM_PIDFD, Linux 6.5", sys.TryPeerPidfd(),
			"who sent a message is known by its pid and user only"),
		checkProcfs(),
		checkDescriptorsOfOthers(),
		checkPidfdGetfd(),
		works("socket-file", "ioctl SIOCUNIXFILE, CAP_NET_ADMIN", sys.TrySockFile(),
			"what a process holds is found by the names that the kernel's socket table has, and not in other network namespaces"),
		checkSockDiag(),
		checkInotify(),
		checkFanotify(),
		checkMaxDescriptors(),
	}, checkTracing()...)
}

func checkKernel() finding {
	release, err := sys.KernelRelease()
	if err != nil {
		return works("kernel", "uname", err, "the version is not known")
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 10) {
		return missing("kernel", "Linux "+release+" is older than 5.10", "it was never tried with a kernel as old as this one")
	}
	return ok("kernel", "Linux "+release)
}

func checkUser() finding {
	uid := os.Geteuid()
	who := fmt.Sprintf("%s (uid %d)", userOr(uint32(uid)), uid)
	for _, capability := range []int{unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER} {
		if has, err := sys.HasCapability(capability); err != nil || !has {
			return limited("user", who+", without CAP_DAC_OVERRIDE and CAP_FOWNER",
				"sock-files that this user may not write to are unknown; files that it may not remove are kept")
		}
	}
	return ok("user", who+", may ask about and remove every sock-file")
}

func checkPidfd() finding {
	p, err := pidfd.Open(os.Getpid())
	if err == nil {
		err = p.Close()
	}
	f := works("pidfd", "pidfd_open", err, "processes cannot be watched")
	f.essential = true
	return f
}

func checkPidfdInode() finding {
	id, err := ownIdentity()
	if err == nil && id.Inode == 0 {
		return limited("pidfd-inode", "pidfds have no inode numbers of their own, Linux 6.9 has",
			"after a restart a process is told by its pid and start time, to 10 ms")
	}
	return works("pidfd-inode", "inode numbers of pidfs, Linux 6.9", err, "no process can be told after a restart")
}

func ownIdentity() (pidfd.Identity, error) {
	p, err := pidfd.Open(os.Getpid())
	if err != nil {
		return pidfd.Identity{}, err
	}
	defer p.Close()
	return p.Identity()
}

// checkPidfdExit needs a process that was reaped: a run of this program.
func checkPidfdExit() finding {
	const check, effect = "pidfd-exit", "how a process ended is known only if it was started by sockwatch run"
	exit, err := exitOfChild()
	if err != nil {
		return limited(check, "could not be tried: "+oneLine(err), "maybe: "+effect)
	}
	if !exit.Known {
		err = errors.New(exit.Reason)
	}
	return works(check, "PIDFD_INFO_EXIT, Linux 6.15", err, effect)
}

func exitOfChild() (pidfd.Exit, error) {
	self, err := os.Executable()
	if err != nil {
		return pidfd.Exit{}, err
	}
	cmd := &exec.Cmd{Path: self, Args: []string{"sockwatch", "version"}}
	if err := cmd.Start(); err != nil {
		return pidfd.Exit{}, err
	}
	p, err := pidfd.FromProcess(cmd.Process)
	if waitErr := cmd.Wait(); err != nil || waitErr != nil {
		return pidfd.Exit{}, errors.Join(err, waitErr)
	}
	defer p.Close()
	return p.Exit(), nil
}

func checkProcfs() finding {
	const effect = "no sock-file can be asked about, so nothing is removed"
	is, err := sys.OnProcfs()
	if err == nil && !is {
		err = errors.New("not mounted, or something else is")
	}
	f := works("procfs", "/proc", err, effect)
	f.essential = true
	if err != nil {
		return f
	}
	m, err := mountOf("/proc")
	if err != nil {
		return limited("procfs", "mounted; its options cannot be read: "+oneLine(err), "whether it hides processes is not known")
	}
	if hidden := hidesProcesses(m); hidden != "" {
		return limited("procfs", "mounted with "+hidden, "processes of other users are not seen as holders")
	}
	return f
}

// hidesProcesses gives the option by which a procfs hides other users' processes from us, "" if it does not: proc(5).
func hidesProcesses(m proc.Mount) string {
	value, _ := proc.Option(m.SuperOptions, "hidepid")
	if slices.Contains([]string{"", "0", "off"}, value) {
		return ""
	}
	if may, err := sys.HasCapability(unix.CAP_SYS_PTRACE); err == nil && may {
		return ""
	}
	// Who is in that group sees all, but with "ptraceable".
	if gid, ok := proc.Option(m.SuperOptions, "gid"); ok && value != "4" && value != "ptraceable" {
		groups, _ := os.Getgroups()
		if id, err := strconv.Atoi(gid); err == nil && slices.Contains(append(groups, os.Getegid()), id) {
			return ""
		}
	}
	return "hidepid=" + value
}

// mountOf finds the mount that a directory is on.
func mountOf(dir string) (proc.Mount, error) {
	fd, err := sys.OpenDir(unix.AT_FDCWD, dir)
	if err != nil {
		return proc.Mount{}, err
	}
	defer func() { _ = sys.Close(fd) }()
	id, err := sys.StatDir(fd)
	if err != nil {
		return proc.Mount{}, err
	}
	for m, err := range proc.FS("").Mounts(0) {
		if err != nil || m.ID == id.Mount {
			return m, err
		}
	}
	return proc.Mount{}, fmt.Errorf("mount %d is not in the mount table", id.Mount)
}

func checkDescriptorsOfOthers() finding {
	if may, err := sys.HasCapability(unix.CAP_SYS_PTRACE); err != nil || !may {
		return limited("proc-fd", "/proc/PID/fd of this user's own processes only, without CAP_SYS_PTRACE",
			"other users' processes, and those that are not dumpable, are not seen as holders")
	}
	return ok("proc-fd", "/proc/PID/fd of every process")
}

func checkPidfdGetfd() finding {
	const check, effect = "pidfd-getfd", "what a process holds is found by the names that the kernel's socket table has"
	p, err := pidfd.Open(os.Getpid())
	if err == nil {
		err = sys.WithCopy(int(p.Fd()), int(p.Fd()), func(int) error { return nil })
		_ = p.Close()
	}
	if err != nil {
		return works(check, "pidfd_getfd", err, effect)
	}
	scope, err := proc.FS("").Sysctl("kernel/yama/ptrace_scope")
	if errors.Is(err, fs.ErrNotExist) {
		return ok(check, "pidfd_getfd; no Yama")
	}
	may, capErr := sys.HasCapability(unix.CAP_SYS_PTRACE)
	scoped := fmt.Sprintf("pidfd_getfd; kernel.yama.ptrace_scope is %d", scope)
	switch {
	case err != nil || capErr != nil:
		return limited(check, "pidfd_getfd; whether Yama limits it is not known: "+oneLine(errors.Join(err, capErr)), effect)
	case scope >= 3, scope == 2 && !may:
		return missing(check, scoped, effect)
	case scope == 1 && !may:
		return limited(check, scoped+": of descendants only", effect+", but for descendants")
	}
	return ok(check, scoped)
}

func checkSockDiag() finding {
	conn, err := sockdiag.Dial()
	if err == nil {
		err = conn.Close()
	}
	return works("sock-diag", "NETLINK_SOCK_DIAG of AF_UNIX (CONFIG_UNIX_DIAG)", err,
		"types of sockets are not known, and holders only with CAP_NET_ADMIN and CAP_SYS_PTRACE")
}

// fewWatches is what the kernel allowed everybody before Linux 5.11.
const fewWatches = 8192

func checkInotify() finding {
	const check, effect = "inotify", "bindspaces, and directories of sock-files that do not exist yet, cannot be watched"
	fd, err := sys.InotifyInit()
	if err != nil {
		return works(check, "inotify_init1", err, effect)
	}
	_ = sys.Close(fd)
	watches, err := proc.FS("").Sysctl("fs/inotify/max_user_watches")
	instances, instancesErr := proc.FS("").Sysctl("fs/inotify/max_user_instances")
	if err = errors.Join(err, instancesErr); err != nil {
		return limited(check, "its limits cannot be read: "+oneLine(err), "how many directories can be watched is not known")
	}
	detail := fmt.Sprintf("%d watches for all programs of a user, %d instances", watches, instances)
	if watches < fewWatches {
		return limited(check, detail, "no more directories can be watched (fs.inotify.max_user_watches)")
	}
	return ok(check, detail)
}

func checkFanotify() finding {
	fd, err := sys.FanotifyInit()
	if err == nil {
		err = sys.Close(fd)
	}
	return works("fanotify", "FAN_REPORT_PIDFD, Linux 5.17, CAP_SYS_ADMIN", err,
		"who made a sock-file in a bindspace is found by looking at what the likely processes hold")
}

// fewDescriptors is a limit below which a service of ordinary size may run out of them.
const fewDescriptors = 4096

func checkMaxDescriptors() finding {
	// Go raises the soft limit to the hard one when a program starts.
	soft, _, err := sys.MaxDescriptors()
	if err != nil {
		return works("descriptors", "RLIMIT_NOFILE", err, "how many processes can be watched is not known")
	}
	if soft < fewDescriptors {
		return limited("descriptors", fmt.Sprintf("%d, RLIMIT_NOFILE", soft), "fewer processes can be watched at a time: each needs one")
	}
	return ok("descriptors", fmt.Sprintf("%d, RLIMIT_NOFILE", soft))
}
