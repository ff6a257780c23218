package imagestore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// testHost makes a small host root and returns it. Its times lie in the past,
// as those of a real one do.
func testHost(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "etc/ssl/certs", "etc/ssl/private", "etc/skel/.config", "etc/alternatives",
		"etc/profile.d", "etc/ssh", "root", "home/alice", "var/log", "etc/java-17/secret"} {
		mustMkdir(t, filepath.Join(root, dir), 0o755)
	}
	for _, name := range []string{"bin", "sbin", "lib"} {
		mustSymlink(t, "usr/"+name, filepath.Join(root, name))
	}
	for name, mode := range map[string]os.FileMode{
		"etc/profile": 0o644, "etc/passwd": 0o644, "etc/shadow": 0o640, "etc/group": 0o644, "etc/os-release": 0o644,
		"etc/ssl/certs/ca.pem": 0o644, "etc/ssl/certs/half.pem": 0o640, "etc/ssl/private/key.pem": 0o644, "etc/ssl/openssl.cnf": 0o644,
		"etc/skel/.profile": 0o644, "etc/profile.d/x.sh": 0o755, "etc/ssh/ssh_config": 0o644, "etc/ssh/ssh_host_key": 0o600,
		"etc/ssh/sshd_config": 0o644, "etc/wgetrc": 0o600, "etc/secret.conf": 0o644, "root/.bashrc": 0o644, "home/alice/x": 0o644,
		"var/log/syslog": 0o644, "etc/machine-id": 0o444, "etc/resolv.conf": 0o644, "etc/hosts": 0o644, "etc/hostname": 0o644,
		"etc/login.defs": 0o4755, "etc/java-17/secret/password": 0o644,
	} {
		mustWrite(t, filepath.Join(root, name), "content of "+name, mode)
	}
	mustSymlink(t, "/usr/share/zoneinfo/Etc/UTC", filepath.Join(root, "etc/localtime"))
	mustSymlink(t, "/usr/bin/vim.basic", filepath.Join(root, "etc/alternatives/vi"))
	mustSymlink(t, "/etc/shadow", filepath.Join(root, "etc/ssl/certs/leak.pem"))
	mustSymlink(t, "../shadow", filepath.Join(root, "etc/screenrc"))
	if err := unix.Mkfifo(filepath.Join(root, "etc/inputrc"), 0o666); err != nil {
		t.Fatal(err)
	}
	mustChmod(t, filepath.Join(root, "etc/java-17/secret"), 0o750)
	time.Sleep(clockGrain + 20*time.Millisecond)
	return root
}

func mustMkdir(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mustSymlink(t testing.TB, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// mustWrite writes a file; mode is that of chmod(2), octal and whole.
func mustWrite(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	mustChmod(t, path, uint32(mode))
}

// mustChmod is chmod(2), which unlike os.Chmod takes the set-uid bit as it is.
func mustChmod(t testing.TB, path string, mode uint32) {
	t.Helper()
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func testStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "images")
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustMounts(t testing.TB, s *Store, name string) Mounts {
	t.Helper()
	m, err := s.Mounts(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// listTree describes every entry below dir: "name mode link-target".
func listTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		target, _ := os.Readlink(path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		tree[rel] = strings.TrimSpace(fmt.Sprintf("%o %s", st.Mode, target))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestHostLayer(t *testing.T) {
	host := testHost(t)
	s := testStore(t, Config{HostRoot: host})
	m := mustMounts(t, s, "host")
	if len(m.Layers) != 1 {
		t.Fatalf("Layers = %q; want one", m.Layers)
	}
	want := Bind{Source: filepath.Join(host, "usr"), Target: "/usr"}
	if len(m.Binds) != 1 || m.Binds[0] != want {
		t.Errorf("Binds = %v; want %v", m.Binds, want)
	}
	got := listTree(t, m.Layers[0])
	for name, want := range map[string]string{
		".": "40755", "bin": "120777 usr/bin", "sbin": "120777 usr/sbin", "lib": "120777 usr/lib", "usr": "40755",
		"tmp": "41777", "var/tmp": "41777", "root": "40700", "dev": "40755", "proc": "40555", "home": "40755", "var/mail": "40755",
		"etc/profile": "100644", "etc/profile.d/x.sh": "100755", "etc/skel/.profile": "100644", "etc/skel/.config": "40755",
		"etc/ssl": "40755", "etc/ssl/certs/ca.pem": "100644", "etc/ssl/certs/leak.pem": "120777 /etc/shadow", "etc/ssl/openssl.cnf": "100644",
		"etc/localtime": "120777 /usr/share/zoneinfo/Etc/UTC", "etc/alternatives/vi": "120777 /usr/bin/vim.basic",
		"etc/ssh/ssh_config": "100644", "etc/passwd": "100644", "etc/group": "100644", "etc/nsswitch.conf": "100644",
		"etc/login.defs": "100755", "etc/screenrc": "120777 ../shadow", "etc/java-17": "40755", "etc/os-release": "100644",
	} {
		if got[name] != want {
			t.Errorf("%s = %q; want %q", name, got[name], want)
		}
	}
	for _, name := range []string{
		"lib64", "etc/shadow", "etc/ssl/private", "etc/ssl/certs/half.pem", "etc/ssh/ssh_host_key", "etc/ssh/sshd_config", "etc/wgetrc",
		"etc/secret.conf", "root/.bashrc", "home/alice", "var/log/syslog", "etc/machine-id", "etc/resolv.conf", "etc/hosts", "etc/hostname",
		"etc/inputrc", "etc/java-17/secret", "usr/bin",
	} {
		if mode, ok := got[name]; ok {
			t.Errorf("%s = %q; want it left out", name, mode)
		}
	}
	for name, content := range map[string]string{"etc/passwd": hostPasswd, "etc/group": hostGroup, "etc/profile": "content of etc/profile"} {
		if data, err := os.ReadFile(filepath.Join(m.Layers[0], name)); err != nil || string(data) != content {
			t.Errorf("%s = %q, %v; want %q", name, data, err, content)
		}
	}
}

func TestHostNotMerged(t *testing.T) {
	tests := []struct {
		name string
		do   func(root string) error
		want string // "" is success
	}{
		{"merged", func(string) error { return nil }, ""},
		{"absolute links", func(root string) error {
			os.Remove(filepath.Join(root, "bin"))
			return os.Symlink("/usr/bin", filepath.Join(root, "bin"))
		}, ""},
		{"lib64 too", func(root string) error { return os.Symlink("usr/lib64", filepath.Join(root, "lib64")) }, ""},
		{"bin is a directory", func(root string) error {
			os.Remove(filepath.Join(root, "bin"))
			return os.Mkdir(filepath.Join(root, "bin"), 0o755)
		}, "merged /usr"},
		{"lib64 is a directory", func(root string) error { return os.Mkdir(filepath.Join(root, "lib64"), 0o755) }, "merged /usr"},
		{"lib leads elsewhere", func(root string) error {
			os.Remove(filepath.Join(root, "lib"))
			return os.Symlink("/opt/lib", filepath.Join(root, "lib"))
		}, "merged /usr"},
		{"no sbin", func(root string) error { return os.Remove(filepath.Join(root, "sbin")) }, "merged /usr"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := testHost(t)
			if err := tt.do(root); err != nil {
				t.Fatal(err)
			}
			_, err := testStore(t, Config{HostRoot: root}).Mounts(t.Context(), "host")
			checkError(t, err, tt.want)
		})
	}
}

// checkError wants nil for "" and else an error that contains want.
func checkError(t testing.TB, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %v; want none", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error %v; want one with %q", err, want)
	}
}

// TestHostRegenerated changes one source at a time and compares the layer and
// its identity before and after.
func TestHostRegenerated(t *testing.T) {
	etc := func(root, name string) string { return filepath.Join(root, "etc", name) }
	tests := []struct {
		name string
		do   func(t *testing.T, root string)
		same bool
	}{
		{"nothing", func(*testing.T, string) {}, true},
		{"file rewritten in place", func(t *testing.T, root string) { mustWrite(t, etc(root, "profile.d/x.sh"), "new", 0o755) }, false},
		{"same size", func(t *testing.T, root string) { mustWrite(t, etc(root, "profile"), "CONTENT OF etc/profile", 0o644) }, false},
		{"file added below", func(t *testing.T, root string) { mustWrite(t, etc(root, "skel/.vimrc"), "", 0o644) }, false},
		{"file added on top", func(t *testing.T, root string) { mustWrite(t, etc(root, "python3.99"), "", 0o644) }, false},
		{"file removed", func(_ *testing.T, root string) { os.Remove(etc(root, "ssl/certs/ca.pem")) }, false},
		{"file closed to others", func(t *testing.T, root string) { mustChmod(t, etc(root, "profile"), 0o640) }, false},
		{"file opened to others", func(t *testing.T, root string) { mustChmod(t, etc(root, "wgetrc"), 0o644) }, false},
		{"link changed", func(t *testing.T, root string) {
			os.Remove(etc(root, "localtime"))
			mustSymlink(t, "/usr/share/zoneinfo/CET", etc(root, "localtime"))
		}, false},
		{"lib64 appears", func(t *testing.T, root string) { mustSymlink(t, "usr/lib64", filepath.Join(root, "lib64")) }, false},
		{"account added", func(t *testing.T, root string) { mustWrite(t, etc(root, "passwd.new"), "bob", 0o644) }, true},
		{"file touched", func(t *testing.T, root string) { mustChmod(t, etc(root, "profile"), 0o644) }, true},
		{"package installed", func(t *testing.T, root string) { mustWrite(t, filepath.Join(root, "usr/bin/new"), "", 0o755) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := testHost(t)
			s := testStore(t, Config{HostRoot: root})
			before := mustMounts(t, s, "host")
			tree := listTree(t, before.Layers[0])
			tt.do(t, root)
			after := mustMounts(t, s, "host")
			if same := before.ImageID == after.ImageID && before.Layers[0] == after.Layers[0]; same != tt.same {
				t.Errorf("same generation: %t; want %t", same, tt.same)
			}
			if fresh := mustMounts(t, testStore(t, Config{HostRoot: root}), "host"); fresh.ImageID != after.ImageID {
				t.Errorf("ID = %s; a new store says %s", after.ImageID, fresh.ImageID)
			}
			if now := listTree(t, before.Layers[0]); len(now) != len(tree) {
				t.Errorf("the old generation has %d entries; want %d as before", len(now), len(tree))
			}
		})
	}
}

// TestHostRacyChange changes a source within the clock's grain of the moment
// it was read; the times alone could not tell.
func TestHostRacyChange(t *testing.T) {
	root := testHost(t)
	s := testStore(t, Config{HostRoot: root})
	for i := range 20 {
		want := fmt.Sprintf("value %02d", i)
		mustWrite(t, filepath.Join(root, "etc/profile"), want, 0o644)
		got, err := os.ReadFile(filepath.Join(mustMounts(t, s, "host").Layers[0], "etc/profile"))
		if err != nil || string(got) != want {
			t.Fatalf("profile = %q, %v; want %q", got, err, want)
		}
	}
}

// TestFingerprintRacy is about kernels whose clock for files is coarse; since
// Linux 6.13 TestHostRacyChange alone cannot tell.
func TestFingerprintRacy(t *testing.T) {
	root := t.TempDir()
	mustWrite(t, filepath.Join(root, "file"), "x", 0o644)
	h := &hostImage{root: root}
	sources := []string{"file", "missing"}
	if got := h.fingerprint(sources, time.Now()); got != "" {
		t.Errorf("fingerprint of a file that just changed = %q; want none", got)
	}
	long := h.fingerprint(sources, time.Now().Add(time.Minute))
	if long == "" || long != h.fingerprint(sources, time.Time{}) {
		t.Errorf("fingerprint of a file that changed long ago = %q; want the same as without a time", long)
	}
}

func TestHostRecordDamage(t *testing.T) {
	root := testHost(t)
	tests := []struct {
		name string
		do   func(s *Store, m Mounts) error
	}{
		{"empty record", func(s *Store, _ Mounts) error { return os.WriteFile(s.host.recordPath(), nil, 0o600) }},
		{"record of another kind", func(s *Store, _ Mounts) error { return writeRecord(kindRef, s.host.recordPath(), hostRecord{}) }},
		{"record of another boot", func(s *Store, m Mounts) error {
			return writeRecord(kindHost, s.host.recordPath(), hostRecord{Boot: "other", ID: m.ImageID, Dir: filepath.Base(m.Layers[0])})
		}},
		{"record that leads out", func(s *Store, m Mounts) error {
			return writeRecord(kindHost, s.host.recordPath(), hostRecord{Boot: s.host.boot, ID: m.ImageID, Dir: m.ImageID.hex() + "/../../.."})
		}},
		{"no directory", func(_ *Store, m Mounts) error { return os.RemoveAll(m.Layers[0]) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := testStore(t, Config{HostRoot: root})
			before := mustMounts(t, s, "host")
			if err := tt.do(s, before); err != nil {
				t.Fatal(err)
			}
			again := testStore(t, s.cfg)
			after := mustMounts(t, again, "host")
			if after.ImageID != before.ImageID {
				t.Errorf("ID = %s; want %s", after.ImageID, before.ImageID)
			}
			if got := listTree(t, after.Layers[0])["etc/profile"]; got != "100644" {
				t.Errorf("etc/profile = %q; want a file", got)
			}
		})
	}
}

// TestHostStale: a generation that was replaced stays for a while, and then
// goes the way of removed layers.
func TestHostStale(t *testing.T) {
	root := testHost(t)
	s := testStore(t, Config{HostRoot: root})
	before := mustMounts(t, s, "host").Layers[0]
	mustWrite(t, filepath.Join(root, "etc/profile"), "new", 0o644)
	after := mustMounts(t, s, "host").Layers[0]
	mustMkdir(t, filepath.Join(s.path(dirHost), tempPrefix+"crashed"), 0o700)

	age := func(dirs ...string) {
		for _, dir := range dirs {
			long := time.Now().Add(-2 * generationGrace)
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	age(before)
	if err := s.Collect(t.Context(), inUse()); err != nil || !isDir(before) {
		t.Errorf("Collect = %v; the old generation is gone at once", err)
	}
	age(after, filepath.Join(s.path(dirHost), tempPrefix+"crashed"))
	if err := s.Collect(t.Context(), inUse(before)); err != nil || isDir(before) || !isDir(after) || trashDirs(t, s) != 1 {
		t.Errorf("Collect = %v; old %t, new %t, %d in the trash; want the old one there, since it is in use", err, isDir(before), isDir(after), trashDirs(t, s))
	}
	if err := s.Collect(t.Context(), inUse()); err != nil || trashDirs(t, s) != 0 {
		t.Errorf("Collect = %v with %d in the trash; want none", err, trashDirs(t, s))
	}
}

// TestHostOutOfDate takes the host's bin away after a generation was made: who
// logs in meanwhile gets the generation that is there.
func TestHostOutOfDate(t *testing.T) {
	root := testHost(t)
	s := testStore(t, Config{HostRoot: root})
	before := mustMounts(t, s, "host")
	if err := os.Remove(filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	if after := mustMounts(t, s, "host"); after.ImageID != before.ImageID {
		t.Errorf("ID = %s; want the old one, %s", after.ImageID, before.ImageID)
	}
}

// TestHostConcurrently: however many log in first, one generation is made.
func TestHostConcurrently(t *testing.T) {
	root := testHost(t)
	stores := []*Store{testStore(t, Config{HostRoot: root})}
	stores = append(stores, testStore(t, stores[0].cfg))
	var wg sync.WaitGroup
	got := make([]Mounts, 100)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = stores[i%2].Mounts(t.Context(), "host"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, m := range got {
		if diff := cmp.Diff(got[0], m); diff != "" {
			t.Fatalf("the first and number %d differ (-first +other):\n%s", i, diff)
		}
	}
	dirs, err := filepath.Glob(stores[0].path(dirHost, "*-*"))
	if err != nil || len(dirs) != 1 {
		t.Errorf("generations %q, %v; want one", dirs, err)
	}
}

// TestEtcAllowed: what must never be copied is on no pattern, however the
// list grows.
func TestEtcAllowed(t *testing.T) {
	for _, name := range []string{
		"shadow", "shadow-", "gshadow", "passwd", "group", "subuid", "subgid", "sudoers", "sudoers.d", "machine-id", "hostname", "hosts",
		"resolv.conf", "fstab", "crypttab", "krb5.keytab", "ssl/private", "ssh/ssh_host_rsa_key", "ssh/sshd_config", "pam.d", "security",
		"cron.d", "crontab", "systemd", "NetworkManager", "wireguard", "ppp", "exports", "environment", "pip.conf", "npmrc", "apt",
		"docker", "containers", "carrel", "letsencrypt", "mysql", "postgresql", "apache2", "nginx", "aliases", "mail", "ldap",
		"sssd", "nslcd.conf", "pki/tls/private", "cups", "udev", "default/grub", "init.d", "motd", "nsswitch.conf", "mtab", ".pwd.lock",
	} {
		top, rest, nested := strings.Cut(name, "/")
		whole, parts := allowedIn(top)
		if whole || nested && slices.ContainsFunc(parts, func(p string) bool { return p == name || strings.HasPrefix(top+"/"+rest, p+"/") }) {
			t.Errorf("%s is allowed", name)
		}
	}
	for _, name := range []string{"profile", "bash_completion.d", "python3.11", "debian_version", "os-release", "java-17-openjdk"} {
		if whole, _ := allowedIn(name); !whole {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, pattern := range etcAllowed {
		if _, rest, _ := strings.Cut(pattern, "/"); strings.Contains(rest, "*") || strings.Contains(pattern, "..") || strings.HasPrefix(pattern, "*") && len(pattern) < 5 {
			t.Errorf("pattern %q", pattern)
		}
	}
}

// TestHostAccounts reads the generated accounts as the C library does.
func TestHostAccounts(t *testing.T) {
	for file, fields := range map[string]int{hostPasswd: 7, hostGroup: 4} {
		names, ids := make(map[string]bool), make(map[string]bool)
		for line := range strings.Lines(file) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(f) != fields {
				t.Fatalf("%q has %d fields; want %d", line, len(f), fields)
			}
			id, err := strconv.Atoi(f[2])
			if err != nil || id >= 1000 && id != 65534 || names[f[0]] || ids[f[2]] || f[1] != "x" {
				t.Errorf("%q: %v", line, err)
			}
			names[f[0]], ids[f[2]] = true, true
			if fields == 7 && f[0] != "root" && f[0] != "sync" && f[6] != "/usr/sbin/nologin" {
				t.Errorf("%q can log in", line)
			}
		}
		for _, must := range []string{"root", "mail", "www-data"} {
			if !names[must] {
				t.Errorf("%s is missing", must)
			}
		}
	}
}

func TestHostBounds(t *testing.T) {
	tests := []struct {
		name string
		do   func(t *testing.T, root string)
		want string
	}{
		{"large file", func(t *testing.T, root string) {
			mustWrite(t, filepath.Join(root, "etc/skel/core"), "", 0o644)
			if err := os.Truncate(filepath.Join(root, "etc/skel/core"), maxHostFile+1); err != nil {
				t.Fatal(err)
			}
		}, "more than"},
		{"largest file", func(t *testing.T, root string) {
			mustWrite(t, filepath.Join(root, "etc/skel/core"), "", 0o644)
			if err := os.Truncate(filepath.Join(root, "etc/skel/core"), maxHostFile); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"deep tree", func(t *testing.T, root string) {
			mustMkdir(t, filepath.Join(root, "etc/skel", strings.Repeat("d/", 3*maxHostDepth)), 0o755)
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := testHost(t)
			tt.do(t, root)
			_, err := testStore(t, Config{HostRoot: root}).Mounts(t.Context(), "host")
			checkError(t, err, tt.want)
		})
	}
}

// TestHostReal makes the image of the machine the test runs on.
func TestHostReal(t *testing.T) {
	m := mustMounts(t, testStore(t, Config{}), "host")
	tree := listTree(t, m.Layers[0])
	for _, name := range []string{"bin", "etc/passwd", "etc/profile", "etc/os-release"} {
		if _, ok := tree[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name, mode := range tree {
		if strings.Contains(name, "shadow") || strings.Contains(name, "private") || strings.HasPrefix(name, "root/") {
			t.Errorf("%s (%s) is there", name, mode)
		}
	}
	t.Logf("%d entries", len(tree))
}

func BenchmarkMountsHost(b *testing.B) {
	s := testStore(b, Config{})
	mustMounts(b, s, "host")
	time.Sleep(2 * clockGrain)
	for b.Loop() {
		mustMounts(b, s, "host")
	}
}

func BenchmarkMakeHost(b *testing.B) {
	for b.Loop() {
		if _, err := newHostLayer(b.Context(), "/", b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMountsImported is the other half of what a cold login asks.
func BenchmarkMountsImported(b *testing.B) {
	s := testStore(b, Config{})
	fakeImage(b, s, "a", "1", "2", "3")
	for b.Loop() {
		mustMounts(b, s, "a")
	}
}

// BenchmarkMountsHostFresh is what a new process pays, such as carrel(1).
func BenchmarkMountsHostFresh(b *testing.B) {
	s := testStore(b, Config{})
	mustMounts(b, s, "host")
	time.Sleep(2 * clockGrain)
	for b.Loop() {
		s.host.current.Store(nil)
		mustMounts(b, s, "host")
	}
}
