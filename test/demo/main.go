// Demo shows what sockwatch is for. It kills a server for real, twice: alone, and
// under `sockwatch run`; it says what became of the sock-file, and when. It fails
// when the first sock-file went or the second one stayed.
//
//	demo SOCKWATCH VICTIM    (the two programs)
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: demo SOCKWATCH VICTIM")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(sockwatch, victim string) error {
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := without(victim, filepath.Join(dir, "alone.sock")); err != nil {
		return err
	}
	fmt.Println()
	bindspace := filepath.Join(dir, "bindspace")
	if err := os.Mkdir(bindspace, 0o700); err != nil {
		return err
	}
	return with(sockwatch, victim, filepath.Join(bindspace, "watched.sock"))
}

// without kills a server that nobody watches.
func without(victim, path string) error {
	fmt.Println("Without sockwatch:")
	s, err := start(victim, path)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.kill9(); err != nil {
		return err
	}
	fmt.Println("  it ended:", s.wait())
	if !exists(path) {
		return fmt.Errorf("%s is gone, although nobody removes it", path)
	}
	fmt.Println("  its sock-file is still there, and the next server gets:", bindAgain(path))
	return nil
}

// with kills a server under `sockwatch run`.
func with(sockwatch, victim, path string) error {
	command := []string{sockwatch, "run", "--bindspace", filepath.Dir(path), "--", victim, path}
	fmt.Printf("With %s:\n", strings.Join(command, " "))
	s, err := start(command...)
	if err != nil {
		return err
	}
	defer s.stop()
	w, err := watchDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer w.close()

	killed := time.Now()
	if err := s.kill9(); err != nil {
		return err
	}
	gone, err := w.waitGone(path)
	if err != nil {
		return fmt.Errorf("the sock-file stayed: %w", err)
	}
	fmt.Printf("  its sock-file was gone %.2f ms after the kill\n", float64(gone.Sub(killed).Microseconds())/1000)
	fmt.Println("  sockwatch run ended:", s.wait())
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left in the bindspace: %v", left)
	}
	if err := bindAgain(path); err != nil {
		return err
	}
	fmt.Println("  the next server binds the same path")
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// bindAgain does what a restarted server does.
func bindAgain(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return listener.Close()
}
