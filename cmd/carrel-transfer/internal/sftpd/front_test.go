package sftpd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// client connects the library's client to a server with the options.
func client(t *testing.T, o options) *sftp.Client {
	t.Helper()
	up, toServer := io.Pipe()
	toClient, down := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := serve(o, up, down)
		down.Close()
		done <- err
	}()
	c, err := sftp.NewClientPipe(toClient, toServer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c
}

func TestServe(t *testing.T) {
	t.Chdir(t.TempDir())
	c := client(t, options{})
	w, err := c.Create("file")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789", 100_000)
	if _, err := w.ReadFrom(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// A request of the front's own right behind: the writes come first.
	if err := c.Rename("file", "renamed"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("renamed"); err != nil || string(got) != text {
		t.Errorf("renamed holds %d bytes, %v; want %d", len(got), err, len(text))
	}
	r, err := c.Open("renamed")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil || got.String() != text {
		t.Errorf("read %d bytes, %v; want %d", got.Len(), err, len(text))
	}
	for _, e := range extensions {
		if version, ok := c.HasExtension(e.wire); !ok || version != e.version {
			t.Errorf("extension %s has the version %q, %v; want %q", e.wire, version, ok, e.version)
		}
	}
}

// TestRename overwrites nothing, but where the client asks for it.
func TestRename(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := client(t, options{})
	if err := c.Rename("a", "b"); err == nil {
		t.Error("Rename onto a file = nil; want an error")
	}
	if got, err := os.ReadFile("b"); err != nil || string(got) != "b" {
		t.Errorf("b = %q, %v; want b", got, err)
	}
	if err := c.Rename("none", "c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rename of nothing = %v; want ErrNotExist", err)
	}
	if err := c.PosixRename("a", "b"); err != nil {
		t.Errorf("PosixRename onto a file = %v", err)
	}
	if got, err := os.ReadFile("b"); err != nil || string(got) != "a" {
		t.Errorf("b = %q, %v; want a", got, err)
	}
}

// TestRemove: neither request does the other's work, as the library's do.
func TestRemove(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := errors.Join(os.Mkdir("dir", 0o700), os.WriteFile("file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	const remove, rmdir = 13, 15
	for _, test := range []struct {
		kind byte
		path string
		code uint32
	}{{remove, "dir", fxFailure}, {rmdir, "file", fxNoSuchFile}, {remove, "file", fxOK}, {rmdir, "dir", fxOK}, {remove, "file", fxNoSuchFile}} {
		replies, err := talk(t, options{}, packet(test.kind, one, test.path))
		if err != nil || len(replies) != 1 || !bytes.HasPrefix(replies[0], packet(fxpStatus, one, test.code)[4:]) {
			t.Errorf("request %d of %s = %q, %v; want code %d", test.kind, test.path, replies, err, test.code)
		}
	}
}

// TestSymlink keeps a relative target as it is.
func TestSymlink(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := client(t, options{}).Symlink("../x", "link"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink("link"); err != nil || got != "../x" {
		t.Errorf("the link points to %q, %v; want ../x", got, err)
	}
}

// TestDenied asks for each thing with and without its denial.
func TestDenied(t *testing.T) {
	requests := map[string]func(*sftp.Client) error{
		"mkdir":        func(c *sftp.Client) error { return c.Mkdir("new") },
		"rmdir":        func(c *sftp.Client) error { return c.RemoveDirectory("dir") },
		"remove":       func(c *sftp.Client) error { return c.Remove("file") },
		"rename":       func(c *sftp.Client) error { return c.Rename("file", "new") },
		"posix-rename": func(c *sftp.Client) error { return c.PosixRename("file", "new") },
		"hardlink":     func(c *sftp.Client) error { return c.Link("file", "new") },
		"symlink":      func(c *sftp.Client) error { return c.Symlink("file", "new") },
		"setstat":      func(c *sftp.Client) error { return c.Chmod("file", 0o700) },
		"open":         func(c *sftp.Client) error { f, err := c.Create("file"); closeFile(f); return err },
		"stat":         func(c *sftp.Client) error { _, err := c.Stat("file"); return err },
		"lstat":        func(c *sftp.Client) error { _, err := c.Lstat("file"); return err },
		"opendir":      func(c *sftp.Client) error { _, err := c.ReadDir("dir"); return err },
		"readlink":     func(c *sftp.Client) error { _, err := c.ReadLink("link"); return err },
		"realpath":     func(c *sftp.Client) error { _, err := c.RealPath("file"); return err },
		"statvfs":      func(c *sftp.Client) error { _, err := c.StatVFS("file"); return err },
	}
	reads := []string{"stat", "lstat", "opendir", "readlink", "realpath", "statvfs"}
	try := func(name string, o options) error {
		t.Helper()
		dir := t.TempDir()
		t.Chdir(dir)
		if err := errors.Join(os.Mkdir("dir", 0o700), os.WriteFile("file", nil, 0o600), os.Symlink("x", "link")); err != nil {
			t.Fatal(err)
		}
		return requests[name](client(t, o))
	}
	for name := range requests {
		read := strings.Contains(strings.Join(reads, " ")+" ", name+" ")
		for _, test := range []struct {
			o    options
			want bool
		}{
			{options{}, true},
			{options{permit: filter{denied: []string{name}}}, false},
			{options{permit: filter{denied: []string{"fstat"}}}, true},
			{options{permit: filter{allowed: []string{name, "close", "readdir", "opendir"}}}, true},
			{options{permit: filter{allowed: []string{"fstat"}}}, false},
			{options{readOnly: true}, read},
		} {
			if err := try(name, test.o); (err == nil) != test.want {
				t.Errorf("%s with %+v: %v; want ok %v", name, test.o, err, test.want)
			}
		}
	}
}

func closeFile(f *sftp.File) {
	if f != nil {
		f.Close()
	}
}

// talk sends packets to a server and returns its replies, without lengths.
func talk(t testing.TB, o options, in ...[]byte) ([][]byte, error) {
	t.Helper()
	var out bytes.Buffer
	err := serve(o, bytes.NewReader(bytes.Join(in, nil)), &out)
	var replies [][]byte
	for b := out.Bytes(); len(b) > 0; {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			t.Fatalf("half a reply: %q", b)
		}
		n := 4 + binary.BigEndian.Uint32(b)
		replies = append(replies, b[4:n])
		b = b[n:]
	}
	return replies, err
}

const one = uint32(1)

func TestMkdirMode(t *testing.T) {
	mask := unix.Umask(0o027)
	defer unix.Umask(mask)
	for _, test := range []struct {
		attributes []any
		want       fs.FileMode
	}{
		{[]any{uint32(0)}, 0o750},
		{[]any{uint32(attrPermissions), uint32(0o700)}, 0o700},
		{[]any{uint32(attrPermissions), uint32(0o40777)}, 0o750},
		{[]any{uint32(attrSize | attrUIDGID | attrPermissions), one, one, one, one, uint32(0o500)}, 0o500},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		replies, err := talk(t, options{}, packet(fxpMkdir, append([]any{one, dir}, test.attributes...)...))
		if err != nil || len(replies) != 1 || !bytes.HasPrefix(replies[0], packet(fxpStatus, one, uint32(fxOK))[4:]) {
			t.Fatalf("mkdir: %q, %v", replies, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != test.want {
			t.Errorf("attributes %v made %v, %v; want %v", test.attributes, info.Mode(), err, test.want)
		}
	}
}

func TestRealpath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, err := range []error{os.MkdirAll("d/e", 0o700), os.Symlink("d/e", "l"), os.Symlink("none", "dangling"), os.Symlink("loop", "loop"),
		os.Symlink("/none", "absolute")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	home, err := homeOf("")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ extension, in, want string }{
		{"", ".", dir}, {"", "", dir}, {"", "d/../d/", dir + "/d"}, {"", "l", dir + "/d/e"}, {"", "l/..", dir + "/d"}, {"", "new", dir + "/new"},
		{"", "l/new", dir + "/d/e/new"}, {"", "dangling", dir + "/none"}, {"", "absolute", "/none"}, {"", "/../..", "/"}, {"", "~", dir + "/~"},
		{"", "none/new", ""}, {"", "loop", ""}, {"", "none/..", ""},
		{"expand-path@openssh.com", "~", home}, {"expand-path@openssh.com", "~/new-file", home + "/new-file"}, {"expand-path@openssh.com", "~root", "/root"},
		{"expand-path@openssh.com", "l", dir + "/d/e"}, {"expand-path@openssh.com", "~no-such-user-here/x", ""},
	} {
		request := packet(fxpRealpath, one, test.in)
		if test.extension != "" {
			request = packet(fxpExtended, one, test.extension, test.in)
		}
		replies, err := talk(t, options{}, request)
		if err != nil || len(replies) != 1 {
			t.Fatalf("realpath %q: %q, %v", test.in, replies, err)
		}
		want := packet(fxpName, one, one, test.want, test.want, uint32(0))[4:]
		if test.want == "" {
			if replies[0][0] != fxpStatus {
				t.Errorf("realpath %q = %q; want a failure", test.in, replies[0])
			}
		} else if !bytes.Equal(replies[0], want) {
			t.Errorf("realpath %q = %q; want %q", test.in, replies[0], want)
		}
	}
}

func TestVersion(t *testing.T) {
	all := []any{uint32(protocolVersion)}
	for _, e := range extensions {
		all = append(all, e.wire, e.version)
	}
	for _, test := range []struct {
		permit filter
		want   []any
	}{
		{filter{}, all},
		{filter{allowed: []string{"open"}}, all[:1]},
		{filter{denied: []string{"posix-rename"}}, append([]any{all[0]}, all[3:]...)},
	} {
		replies, err := talk(t, options{permit: test.permit}, packet(fxpInit, uint32(6)))
		if err != nil || len(replies) != 1 || !bytes.Equal(replies[0], packet(fxpVersion, test.want...)[4:]) {
			t.Errorf("INIT with %+v = %q, %v; want %v", test.permit, replies, err, test.want)
		}
	}
}

// TestHostilePackets ends the connection, or refuses, and does nothing else.
func TestHostilePackets(t *testing.T) {
	t.Chdir(t.TempDir())
	long := []byte{0, 4, 0, 1, fxpMkdir} // one more than the limit
	for name, in := range map[string][]byte{
		"empty":            {0, 0, 0, 0},
		"too long":         long,
		"huge":             {0xff, 0xff, 0xff, 0xff, fxpMkdir},
		"cut length":       {0, 0},
		"cut packet":       packet(fxpMkdir, one, "d")[:8],
		"no id":            packet(fxpMkdir),
		"no path":          packet(fxpMkdir, one),
		"long path":        packet(fxpMkdir, one, uint32(1<<31), uint32(0)),
		"no attributes":    packet(fxpMkdir, one, "d"),
		"no mode":          packet(fxpMkdir, one, "d", uint32(attrPermissions)),
		"rename to naught": packet(fxpRename, one, "d"),
		"unknown":          packet(99, one),
		"library's":        packet(3, one),
	} {
		replies, err := talk(t, options{}, in)
		if err == nil || len(replies) != 0 {
			t.Errorf("%s: replies %q, %v; want an error", name, replies, err)
		}
	}
	replies, err := talk(t, options{}, packet(fxpExtended, one, "nonsense@example.org", "x"))
	if err != nil || len(replies) != 1 || replies[0][0] != fxpStatus {
		t.Errorf("unknown extension: %q, %v; want a status", replies, err)
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) != 0 {
		t.Errorf("something was made: %v, %v", entries, err)
	}
	// The twin.
	if replies, err := talk(t, options{}, packet(fxpMkdir, one, "d", uint32(0))); err != nil || len(replies) != 1 {
		t.Errorf("a good packet: %q, %v", replies, err)
	}
}

// TestOrder mixes requests of the library's and of the front's: replies come in
// the order of the requests, and so do the effects.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	var in [][]byte
	var want []uint32
	for i := range uint32(50) {
		d := fmt.Sprintf("%s/%d", dir, i)
		in = append(in, packet(fxpMkdir, 4*i, d, uint32(0)), packet(17, 4*i+1, d), packet(15, 4*i+2, d), packet(fxpMkdir, 4*i+3, d, uint32(0)))
		want = append(want, 4*i, 4*i+1, 4*i+2, 4*i+3)
	}
	replies, err := talk(t, options{}, in...)
	if err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for _, reply := range replies {
		id := binary.BigEndian.Uint32(reply[1:])
		got = append(got, id)
		if reply[0] == fxpStatus && binary.BigEndian.Uint32(reply[5:]) != fxOK {
			t.Errorf("request %d: %q", id, reply)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order of replies (-want +got):\n%s", diff)
	}
}

// TestLastReply: what was asked before the end of the input is answered. The
// library alone loses it now and then.
func TestLastReply(t *testing.T) {
	var in [][]byte
	for i := range uint32(20) {
		in = append(in, packet(17, i, "/"))
	}
	for range 200 {
		replies, err := talk(t, options{}, in...)
		if err != nil || len(replies) != len(in) {
			t.Fatalf("%d requests, %d replies, %v", len(in), len(replies), err)
		}
	}
}

// broken is a client that is gone.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestClientGone(t *testing.T) {
	for _, in := range [][]byte{packet(fxpInit, uint32(3)), packet(17, one, "/"), append(packet(17, one, "/"), packet(fxpRealpath, one, "/")...)} {
		if err := serve(options{}, bytes.NewReader(in), broken{}); !errors.Is(err, unix.EPIPE) {
			t.Errorf("serve of %q to nobody = %v; want EPIPE", in, err)
		}
	}
}

// FuzzFront holds that a read-only server whose every request but those of the
// front is denied changes nothing, answers in whole packets, and at most once.
func FuzzFront(f *testing.F) {
	dir := f.TempDir()
	f.Add(packet(fxpInit, uint32(3)))
	f.Add(packet(fxpMkdir, one, dir+"/d", uint32(0)))
	f.Add(packet(fxpRename, one, dir, dir+"2"))
	f.Add(append(packet(fxpRealpath, one, "."), packet(3, one, dir+"/f", uint32(0x1a), uint32(0))...))
	f.Add(packet(fxpExtended, one, "posix-rename@openssh.com", dir, dir+"2"))
	f.Add(packet(fxpExtended, one, "expand-path@openssh.com", "~/x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		o := options{readOnly: true, permit: filter{allowed: []string{"mkdir", "rename", "realpath", "expand-path"}}}
		replies, _ := talk(t, o, in)
		requests := 0
		for b := in; len(b) > 4; requests++ {
			b = b[min(uint64(len(b)), 4+uint64(binary.BigEndian.Uint32(b))):]
		}
		if len(replies) > requests {
			t.Errorf("%d requests, %d replies", requests, len(replies))
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%q made %v, %v", in, entries, err)
		}
	})
}
