package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// guestRun is what a guest did.
type guestRun struct {
	kernel  kernel
	release string // what the guest says
	suites  []result
	err     error // it did not come to the end, or could not begin
}

// features says from which kernel on a feature of internal/testutil must not be missing.
var features = []struct {
	name         string
	major, minor int
}{
	{"root", 0, 0},
	{"bpf", 0, 0},
	{"userns", 0, 0},
	{"overlay", 0, 0},
	{"ext4", 0, 0},
	{"tmpfs", 0, 0},
	{"descriptors", 0, 0},
	{"ia32", 0, 0},
	{"fexit", 5, 11},
	{"pidfs", 6, 9},
	{"iouring", 6, 11},
	{"infoexit", 6, 15},
}

func (k kernel) features() string {
	var major, minor int
	_, _ = fmt.Sscanf(k.series, "%d.%d", &major, &minor)
	var names []string
	for _, f := range features {
		if major > f.major || major == f.major && minor >= f.minor {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ",")
}

// memory of a guest, in MiB. The host gives what is used of it.
const memory = "4096"

func runGuest(ctx context.Context, o options, k kernel, suites []suite, scratch string) guestRun {
	image := filepath.Join(scratch, k.series+".cpio")
	r := guestRun{kernel: k}
	args := "-test.v=test2json -test.timeout=" + (o.limit / 2).String() // so that it tells where it hangs
	if o.run != "" {
		args += " -test.run=" + o.run
	}
	if r.err = initramfs(ctx, k, suites, []string{"SOCKWATCH_TEST_REQUIRE=" + k.features()}, args, image); r.err != nil {
		return r
	}
	var vmlinuz string
	if vmlinuz, r.err = k.image(); r.err != nil {
		return r
	}
	logs := filepath.Join(cache, "logs-"+k.series)
	if r.err = os.MkdirAll(logs, 0o755); r.err != nil {
		return r
	}
	console := filepath.Join(logs, "console.log")

	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	// The console is the first serial port, so that what the kernel says does not mix with what the tests say at the second.
	// An oops is the guest's end, and -no-reboot QEMU's.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none",
		"-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-m", memory,
		"-kernel", vmlinuz, "-initrd", image,
		"-append", "console=ttyS0 panic=-1 oops=panic quiet lsm=lockdown,capability,landlock,bpf",
		"-serial", "file:"+console, "-serial", "stdio")
	var complaints bytes.Buffer
	qemu.Stderr = &complaints
	said, err := qemu.StdoutPipe()
	if err != nil {
		r.err = err
		return r
	}
	if r.err = qemu.Start(); r.err != nil {
		r.err = fmt.Errorf("%w; the package qemu-system-x86 has it", r.err)
		return r
	}
	done := r.listen(bufio.NewReader(said), suites, logs, scratch)
	switch err := qemu.Wait(); {
	case done:
	case ctx.Err() != nil:
		r.err = errors.Join(r.err, fmt.Errorf("%s: stopped: %w", k.release, context.Cause(ctx)))
	default:
		r.err = errors.Join(r.err, err, fmt.Errorf("%s: the guest ended before its tests did; %s ends with:\n%s%s", k.release,
			console, complaints.Bytes(), tail(console)))
	}
	return r
}

// listen takes what the guest says apart, until it ends. done tells that it came to the end of its list.
func (r *guestRun) listen(said *bufio.Reader, suites []suite, logs, scratch string) (done bool) {
	for _, s := range suites {
		r.suites = append(r.suites, result{suite: s})
	}
	var current *result
	var begun time.Time
	var output bytes.Buffer
	var log *os.File // for who wants to look on
	end := func(status string) {
		if current == nil {
			return
		}
		_ = log.Close()
		r.err = errors.Join(r.err, current.read(output.Bytes(), converter(scratch)))
		current.status, current.took = status, time.Since(begun)
		fmt.Printf("%s: %v\n", r.release, *current)
		current = nil
	}
	for {
		line, err := said.ReadString('\n')
		ended := err != nil
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "@@" && words[1] == "kernel":
			r.release = words[2]
			fmt.Printf("%s: started\n", r.release)
		case len(words) == 3 && words[0] == "@@" && words[1] == "start":
			for i := range r.suites {
				if r.suites[i].name == words[2] {
					current = &r.suites[i]
				}
			}
			begun = time.Now()
			output.Reset()
			log, err = os.Create(filepath.Join(logs, strings.ReplaceAll(words[2], "/", "-")+".log"))
			r.err = errors.Join(r.err, err)
		case len(words) == 4 && words[0] == "@@" && words[1] == "end":
			end(words[3])
		case len(words) == 2 && words[0] == "@@" && words[1] == "done":
			done = true
		case len(words) > 2 && words[0] == "@@" && words[1] == "problem":
			r.err = errors.Join(r.err, fmt.Errorf("%s: %s", r.kernel.release, strings.Join(words[2:], " ")))
		case current != nil:
			output.WriteString(line)
			_, _ = log.WriteString(line)
		}
		if ended {
			end("")
			return done
		}
	}
}

// failure is why this run is one.
func (r guestRun) failure() error {
	errs := []error{r.err}
	for _, s := range r.suites {
		if s.failed() {
			errs = append(errs, fmt.Errorf("%s: the tests of %s failed", r.kernel.release, s.name))
		}
	}
	return errors.Join(errs...)
}

// tail is the end of a file, for a person.
func tail(file string) string {
	const lines = 40
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(b), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
