package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is an unpacked kernel of Debian's.
type kernel struct {
	series  string // "6.12"
	release string // what uname -r says there
	dir     string // its packages are unpacked here
}

// find gives the first of some places, in the kernel's packages, that is there. From 7.0 on they follow the merged /usr.
func (k kernel) find(places ...string) (string, error) {
	for _, place := range places {
		if path := filepath.Join(k.dir, place); exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s has none of %q", k.dir, places)
}

func (k kernel) image() (string, error) {
	return k.find("boot/vmlinuz-"+k.release, "usr/lib/modules/"+k.release+"/vmlinuz")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// archives are the parts of Debian that a series is looked for in when the machine's own sources do not have it, by whether they are
// security updates or come from the main archive. They are small.
var archives = []struct {
	security bool
	suite    string
}{
	{true, "bullseye-security"}, {true, "bookworm-security"}, {false, "trixie-backports"},
}

// sources writes the archives as apt wants them, with the mirrors that the machine's own sources have.
func sources(ctx context.Context) (string, error) {
	targets, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"))
	if err != nil {
		return "", err
	}
	mirrors := map[bool]string{}
	for line := range strings.Lines(targets) {
		if suite, uri, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			mirrors[strings.HasSuffix(suite, "-security")] = uri
		}
	}
	var list strings.Builder
	for _, a := range archives {
		if uri := mirrors[a.security]; uri != "" {
			fmt.Fprintf(&list, "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", uri, a.suite)
		}
	}
	return list.String(), nil
}

// findKernels gives the newest kernel of each series, from the cache where it is there.
func findKernels(ctx context.Context, series []string) ([]kernel, error) {
	var kernels []kernel
	var others apt // the archives, once they are needed
	for _, s := range series {
		name := newest(s, cached())
		if name == "" {
			source := apt(nil)
			names, err := source.search(ctx)
			if err == nil && newest(s, names) == "" {
				if others == nil {
					if others, err = useArchives(ctx); err != nil {
						return nil, err
					}
				}
				source = others
				names, err = source.search(ctx)
			}
			if err != nil {
				return nil, err
			}
			if name = newest(s, names); name == "" {
				return nil, fmt.Errorf("no linux-image-%s.*-cloud-amd64 in this machine's sources of packages (after apt-get update?) or in %s",
					s, filepath.Join(cache, "apt/sources.list"))
			}
			if err := source.unpack(ctx, name, names); err != nil {
				return nil, err
			}
		}
		kernels = append(kernels, kernel{s, strings.TrimPrefix(name, "linux-image-"), filepath.Join(cache, name)})
	}
	return kernels, nil
}

// cached lists the packages that are unpacked already.
func cached() []string {
	dirs, _ := filepath.Glob(filepath.Join(cache, "linux-image-*-cloud-amd64"))
	for i, dir := range dirs {
		dirs[i] = filepath.Base(dir)
	}
	return dirs
}

// imageName matches the packages that hold a kernel, such as linux-image-6.1.0-56-cloud-amd64 and
// linux-image-6.12.117+deb12-cloud-amd64, and of them those built for the release of Debian that the series came with.
var imageName = regexp.MustCompile(`^linux-image-(\d+\.\d+)\.(\d+)(?:-(\d+)|\+deb\d+)-cloud-amd64$`)

// newest picks the highest version of a series, "" without one.
func newest(series string, names []string) string {
	version := func(name string) []int {
		m := imageName.FindStringSubmatch(name)
		if m == nil || m[1] != series {
			return nil
		}
		patch, _ := strconv.Atoi(m[2])
		abi, _ := strconv.Atoi(m[3])
		return []int{patch, abi}
	}
	best := ""
	for _, name := range names {
		if v := version(name); v != nil && (best == "" || slices.Compare(v, version(best)) > 0) {
			best = name
		}
	}
	return best
}

// apt is the options that have apt use other sources than the machine's.
type apt []string

// useArchives has apt keep its lists of the archives in the cache, so that the machine's own stay as they are.
func useArchives(ctx context.Context) (apt, error) {
	dir, err := filepath.Abs(filepath.Join(cache, "apt"))
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	text, err := sources(ctx)
	if err != nil {
		return nil, err
	}
	list := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
		return nil, err
	}
	a := apt{
		"-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=" + dir + "/parts",
		"-o", "Dir::State::lists=" + dir + "/lists", "-o", "Dir::Cache=" + dir + "/cache",
	}
	_, err = output(a.command(ctx, "apt-get", "update", "-q"))
	return a, err
}

func (a apt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, slices.Concat(a, args)...)
}

func (a apt) search(ctx context.Context) ([]string, error) {
	out, err := output(a.command(ctx, "apt-cache", "pkgnames", "linux-"))
	return strings.Fields(out), err
}

// unpack downloads a kernel, and what else of names belongs to it, and unpacks that in the cache.
func (a apt) unpack(ctx context.Context, name string, names []string) error {
	fmt.Println("fetching", name)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cache, "new")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	download := a.command(ctx, "apt-get", "download", "-q", name)
	// From 7.0 on the kernel and, later, its modules are in packages of their own.
	for _, part := range []string{"linux-binary-", "linux-modules-"} {
		if part += strings.TrimPrefix(name, "linux-image-"); slices.Contains(names, part) {
			download.Args = append(download.Args, part)
		}
	}
	download.Dir = dir
	if _, err := output(download); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	for _, deb := range debs {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, tree)); err != nil {
			return err
		}
	}
	// By a rename, so that what is in the cache is whole.
	return os.Rename(tree, filepath.Join(cache, name))
}

// output runs a command whose complaints are worth telling when it fails.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.Bytes())
	}
	return string(out), err
}
