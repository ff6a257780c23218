package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// The peers run the same thing as Carrel's image host does: the host's /usr,
// read-only, in a small root, every namespace with a user namespace of its
// own, and limits on memory, CPU and processes.
type peers struct {
	dir, rootfs string
	cgroup      string
	runroot     string // podman's, which it wants shorter than 50 bytes
}

const (
	firstID = 3_000_000_000 // of the peers' user namespaces; nobody's
	memory2 = 2 << 30
	pids    = 512
)

// newPeers makes the bundles and starts one container of each peer.
func newPeers(h *host.Host) (*peers, error) {
	p := &peers{dir: filepath.Join(h.Dir, "peers"), cgroup: h.Cgroup + "-peers", runroot: "/run" + h.Cgroup}
	p.rootfs = filepath.Join(p.dir, "rootfs")
	if err := p.makeRoot(); err != nil {
		return nil, err
	}
	for name, args := range map[string][]string{"run": {"bash", "-c", "true"}, "keep": {"sleep", "86400"}} {
		if err := p.makeBundle(name, args); err != nil {
			return nil, err
		}
	}
	for _, argv := range [][]string{
		{"crun", "--root", p.state("crun"), "run", "-d", "-b", p.bundle("keep"), "keep-crun"},
		{"runc", "--root", p.state("runc"), "run", "-d", "-b", p.bundle("keep"), "keep-runc"},
		p.podman("run", append([]string{"-d", "--name", "keep"}, p.podmanOptions("sleep", "86400")...)...),
	} {
		if err := p.hidden(argv); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return p, nil
}

func (p *peers) state(runtime string) string { return filepath.Join(p.dir, runtime) }
func (p *peers) bundle(name string) string   { return filepath.Join(p.dir, "bundle-"+name) }

func (p *peers) makeRoot() error {
	for _, dir := range []string{"proc", "dev", "sys", "usr", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(p.rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	for _, link := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+link, filepath.Join(p.rootfs, link)); err != nil {
			return err
		}
	}
	for _, dir := range []string{p.dir, p.rootfs} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return filepath.WalkDir(p.rootfs, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, firstID, firstID)
	})
}

// makeBundle starts from what `runc spec` writes and adds what a container of
// Carrel's has.
func (p *peers) makeBundle(name string, args []string) error {
	dir := p.bundle(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("runc", "spec", "-b", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(content, &spec); err != nil {
		return err
	}
	type m = map[string]any
	process := spec["process"].(m)
	process["terminal"], process["args"], process["cwd"] = false, args, "/"
	process["user"] = m{"uid": 1000, "gid": 1000}
	delete(process, "rlimits")
	spec["root"] = m{"path": p.rootfs, "readonly": false}
	spec["mounts"] = append(spec["mounts"].([]any),
		m{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"}})
	linux := spec["linux"].(m)
	var namespaces []m
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount", "user", "cgroup"} {
		namespaces = append(namespaces, m{"type": kind})
	}
	linux["namespaces"] = namespaces
	ids := []m{{"containerID": 0, "hostID": firstID, "size": 65536}}
	linux["uidMappings"], linux["gidMappings"] = ids, ids
	resources := linux["resources"].(m)
	resources["memory"] = m{"limit": memory2}
	resources["cpu"] = m{"shares": 1024}
	resources["pids"] = m{"limit": pids}
	linux["cgroupsPath"] = p.cgroup + "/" + name
	if content, err = json.MarshalIndent(spec, "", "\t"); err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}

func (p *peers) crunExec() []string {
	return []string{"crun", "--root", p.state("crun"), "exec", "keep-crun", "bash", "-c", "true"}
}

func (p *peers) runcExec() []string {
	return []string{"runc", "--root", p.state("runc"), "exec", "keep-runc", "bash", "-c", "true"}
}

func (p *peers) podmanExec() []string { return p.podman("exec", "keep", "bash", "-c", "true") }

func (p *peers) crunRun() []string {
	return []string{"crun", "--root", p.state("crun"), "run", "-b", p.bundle("run"), "run-crun"}
}

func (p *peers) runcRun() []string {
	return []string{"runc", "--root", p.state("runc"), "run", "-b", p.bundle("run"), "run-runc"}
}

func (p *peers) podmanRun() []string {
	return p.podman("run", append([]string{"--rm"}, p.podmanOptions("bash", "-c", "true")...)...)
}

// podman returns an invocation with storage of its own, which --rootfs leaves
// almost empty.
func (p *peers) podman(verb string, args ...string) []string {
	argv := []string{"podman", "--log-level", "error", "--root", p.state("podman"), "--runroot", p.runroot, verb}
	return append(argv, args...)
}

func (p *peers) podmanOptions(command ...string) []string {
	ids := fmt.Sprintf("0:%d:65536", firstID)
	options := []string{
		"--network", "none", "--uidmap", ids, "--gidmap", ids, "--user", "1000:1000", "-v", "/usr:/usr:ro",
		"--memory", fmt.Sprint(memory2), "--pids-limit", fmt.Sprint(pids), "--cgroup-parent", p.cgroup,
		// podman asks for more than this process may give on some hosts.
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=512:512", "--rootfs", p.rootfs,
	}
	return append(options, command...)
}

// hidden runs a command where crun does not see a hybrid host's cgroup2.
func (p *peers) hidden(argv []string) error {
	return withoutHybrid(func() error {
		r := host.Run(inFile(p.dir, exec.Command(argv[0], argv[1:]...)))
		if r.Code != 0 || r.Err != nil {
			out, _ := os.ReadFile(filepath.Join(p.dir, "out"))
			return fmt.Errorf("%q: %v: %s", argv, r, out)
		}
		return nil
	})
}

// inFile directs the output to a file: a pipe would stay open as long as the
// detached container does.
func inFile(dir string, cmd *exec.Cmd) *exec.Cmd {
	if out, err := os.Create(filepath.Join(dir, "out")); err == nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// close removes the containers; other files go with the host's directory.
func (p *peers) close() error {
	return errors.Join(
		p.hidden([]string{"crun", "--root", p.state("crun"), "delete", "-f", "keep-crun"}),
		p.hidden([]string{"runc", "--root", p.state("runc"), "delete", "-f", "keep-runc"}),
		p.hidden(p.podman("rm", "-f", "-t", "0", "keep")),
		host.RemoveCgroup(p.cgroup),
		os.RemoveAll(p.runroot),
	)
}
