package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/sandbox/spec"
	"github.com/carrel-sh/carrel/session"
)

// scene is where the tests with real containers work: the binaries, and a
// directory that everybody may traverse. Empty where they cannot run.
var scene string

func TestMain(m *testing.M) {
	code := 1
	if err := withScene(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, "scene:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func withScene(run func()) error {
	if os.Getenv(testneed.Env) != "1" || os.Geteuid() != 0 {
		run() // each test skips or fails by itself
		return nil
	}
	// Not /tmp: where that is a tmpfs, older kernels cannot id-map it.
	dir, err := os.MkdirTemp("/var/tmp", "carrel-sandbox-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, flags := range map[string][]string{
		"carrel-runtime": {"-tags", "netgo osusergo", "-ldflags", `-extldflags "-static"`},
		"carrel-init":    nil,
	} {
		args := append([]string{"build", "-buildvcs=false", "-o", filepath.Join(dir, "libexec", name)}, flags...)
		cmd := exec.Command("go", append(args, "../cmd/"+name)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+map[bool]string{true: "1", false: "0"}[flags != nil])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "libexec", "carrel-init"), 0o111); err != nil {
		return err
	}
	scene = dir
	run()
	return removeCgroups()
}

// parent is the cgroup of all these containers.
func parent() string { return "/carrel-sandbox-" + strconv.Itoa(os.Getpid()) }

// cgroups returns the directories below parent in every hierarchy, the parent
// first.
func cgroups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		roots, _ := filepath.Glob(pattern + parent())
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					all = append(all, path)
				}
				return nil
			})
		}
	}
	return all
}

func removeCgroups() error {
	for _, dir := range slices.Backward(cgroups()) {
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	return nil
}

// A stage is a Manager with directories of its own.
type stage struct {
	*Manager
	t   *testing.T
	cfg Config
	dir string
	log *strings.Builder
}

func newStage(t *testing.T) *stage {
	t.Helper()
	testneed.Root(t)
	if scene == "" {
		t.Fatal("BUG: no scene")
	}
	dir, err := os.MkdirTemp(scene, "s")
	try(t, err)
	try(t, os.Chmod(dir, 0o755))
	s := &stage{t: t, dir: dir, log: new(strings.Builder)}
	s.cfg = Config{
		RunDir: dir + "/run", StateDir: dir + "/state", LibexecDir: scene + "/libexec", CgroupParent: parent(),
		// Of the region that Carrel claims, blocks that no daemon on this machine has come to.
		IDs:    idrange.Region{First: 0x7800_0000, Count: 64},
		Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	s.open()
	makeImage(t, dir+"/image")
	t.Cleanup(func() {
		for _, c := range s.Running() {
			try(t, s.Stop(context.Background(), c.UID))
		}
		s.Close()
		if t.Failed() {
			t.Logf("log:\n%s", s.log)
		}
	})
	return s
}

// open replaces the manager, as a restarted daemon does.
func (s *stage) open() {
	s.t.Helper()
	if s.Manager != nil {
		try(s.t, s.Close())
	}
	var err error
	if s.Manager, err = Open(s.cfg); err != nil {
		s.t.Fatal(err)
	}
}

// makeImage makes a layer around the host's /usr.
func makeImage(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"", "usr", "etc", "tmp", "home"} {
		try(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		try(t, os.Symlink("usr/"+name, filepath.Join(dir, name)))
	}
	try(t, os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	try(t, os.WriteFile(dir+"/etc/group", []byte("root:x:0:\n"), 0o644))
}

// spec is alice's, or that of another uid.
func (s *stage) spec(uid uint32) Spec {
	name := "u" + strconv.Itoa(int(uid))
	return Spec{
		User:     User{Name: name, UID: uid, GID: uid, Groups: []Group{{name, uid}}, Shell: "/bin/sh"},
		Hostname: "h-" + name, Image: "test", ImageID: "1", Layers: []string{s.dir + "/image"},
		Binds: []spec.Bind{{Source: "/usr", Target: "/usr", Recursive: true}}, HomePath: "/home/" + name,
		Limits: cgroup.Limits{MemoryBytes: 256 << 20, SwapBytes: cgroup.NoSwap, Pids: 100, CPUWeight: 100},
	}
}

const alice = 1000

func (s *stage) start(uid uint32) *Container {
	s.t.Helper()
	c, err := s.Start(s.t.Context(), s.spec(uid))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// in runs a command in a session of the container and returns what it wrote.
func (s *stage) in(c *Container, command string) (string, error) {
	conn, err := c.Dial(s.t.Context())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	order := &session.Spawn{
		ID: session.ID(time.Now().UnixNano()), User: c.User, UID: c.UID, GID: c.UID, Home: "/", Shells: []string{"/bin/sh"},
		Command: session.Command{HasText: true, Text: command + " 2>&1"}, Env: []string{"PATH=/usr/bin:/bin"},
	}
	frame, err := order.Encode()
	if err != nil {
		return "", err
	}
	if _, err := conn.Write(frame); err != nil {
		return "", err
	}
	return output(conn)
}

// output takes a session's reply and reads its stdout to the end.
func output(conn *net.UnixConn) (string, error) {
	buf, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(16))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", err
	}
	var files []*os.File
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) == 1 {
		fds, _ := unix.ParseUnixRights(&messages[0])
		for _, fd := range fds {
			_ = unix.SetNonblock(fd, true)
			f := os.NewFile(uintptr(fd), "session")
			defer f.Close()
			files = append(files, f)
		}
	}
	reply, err := session.DecodeReply(buf[:n])
	if err != nil || reply.Failure != session.None || len(files) != 4 {
		return "", fmt.Errorf("reply %+v with %d descriptors: %w", reply, len(files), err)
	}
	files[1].Close()
	_ = files[2].SetReadDeadline(time.Now().Add(30 * time.Second))
	var b strings.Builder
	_, err = files[2].WriteTo(&b)
	return strings.TrimSpace(b.String()), err
}

// must is in, which has to succeed.
func (s *stage) must(c *Container, command string) string {
	s.t.Helper()
	out, err := s.in(c, command)
	if err != nil {
		s.t.Fatalf("%q: %v", command, err)
	}
	return out
}

// A footprint is what containers occupy of the machine.
type footprint struct {
	lines       []string // mounts, cgroups, processes and directories
	descriptors int      // of this process
}

func (f footprint) String() string {
	return fmt.Sprintf("%d descriptors\n%s", f.descriptors, strings.Join(f.lines, "\n"))
}

func (s *stage) trace() footprint {
	s.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	try(s.t, err)
	var lines []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.dir) {
			lines = append(lines, "mount "+line)
		}
	}
	for _, dir := range cgroups() {
		lines = append(lines, "cgroup "+dir)
		procs, _ := os.ReadFile(dir + "/cgroup.procs")
		for _, pid := range strings.Fields(string(procs)) {
			lines = append(lines, "process "+pid)
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	try(s.t, err)
	for _, dir := range []string{s.cfg.RunDir + "/c", s.runtimeDir(), s.stageDir()} {
		for _, name := range names(s.t, dir) {
			lines = append(lines, "file "+filepath.Join(dir, name))
		}
	}
	return footprint{lines, len(fds)}
}

// settle waits until the machine is as before.
func (s *stage) settle(what string, before footprint) {
	s.t.Helper()
	var now footprint
	if !eventually(func() bool {
		now = s.trace()
		return slices.Equal(now.lines, before.lines) && now.descriptors <= before.descriptors
	}) {
		s.t.Errorf("%s: left %v\nwhere there was %v", what, now, before)
	}
}
