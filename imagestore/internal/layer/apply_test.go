package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, opts...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// capability is a security.capability of version 2 with CAP_NET_RAW permitted
// and effective (capabilities(7), "File capability extended attribute
// versioning").
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestApplyMetadata(t *testing.T) {
	s := newSite(t)
	when := time.Unix(1234567890, 123456789)
	old := time.Unix(-86400, 0)
	res, err := s.apply(t, archive(t,
		header(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o751, Uid: 3, Gid: 4, ModTime: when}, ""),
		header(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, ModTime: when}, ""),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "tmp/suid", Mode: 0o6755, Uid: 1000, Gid: 65534, ModTime: when}, "body"),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "closed", Mode: 0o1000, Uid: 7, ModTime: old}, "secret"),
		header(tar.Header{Typeflag: tar.TypeDir, Name: "none", Mode: 0o2000, Gid: 50, ModTime: when}, ""),
		file("none/x", "in a directory nobody may enter"),
		header(tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/etc/../x", Uid: 5, Gid: 6, ModTime: when}, ""),
		header(tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o622, Uid: 8, ModTime: when}, ""),
		hard("hard", "/tmp/suid"),
		header(tar.Header{Typeflag: tar.TypeLink, Name: "hard2", Linkname: "hard", Mode: 0o600, Uid: 9}, ""),
		hard("hardlink", "link"),
		xattrs(tar.TypeReg, "ping", "security.capability", capability, "user.note", "kept", "trusted.overlay.metacopy", "x", "security.selinux", "x"),
		xattrs(tar.TypeDir, "d", "user.a", "1", "user.overlay.opaque", "y", "trusted.overlay.opaque", "y", "system.posix_acl_access", "x"),
		xattrs(tar.TypeFifo, "f2", "user.a", "1"),
	))
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, s.root)
	type meta struct {
		Mode, UID, GID uint32
		Nlink          uint64
		Mtime          time.Time
	}
	for name, want := range map[string]meta{
		".":        {unix.S_IFDIR | 0o751, 3, 4, 5, when},
		"tmp":      {unix.S_IFDIR | 0o1777, 0, 0, 2, when},
		"tmp/suid": {unix.S_IFREG | 0o6755, 1000, 65534, 3, when},
		"hard":     {unix.S_IFREG | 0o6755, 1000, 65534, 3, when},
		"hard2":    {unix.S_IFREG | 0o6755, 1000, 65534, 3, when},
		"closed":   {unix.S_IFREG | 0o1000, 7, 0, 1, old},
		"none":     {unix.S_IFDIR | 0o2000, 0, 50, 2, when},
		"none/x":   {unix.S_IFREG | 0o644, 0, 0, 1, entryTime},
		"link":     {unix.S_IFLNK | 0o777, 5, 6, 2, when},
		"hardlink": {unix.S_IFLNK | 0o777, 5, 6, 2, when},
		"fifo":     {unix.S_IFIFO | 0o622, 8, 0, 1, when},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.root, name), &st); err != nil {
			t.Fatal(err)
		}
		got := meta{st.Mode, st.Uid, st.Gid, st.Nlink, time.Unix(st.Mtim.Unix())}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for path, want := range map[string][]string{"ping": {"security.capability", "user.note"}, "d": {"user.a"}, "f2": nil} {
		got := xattrNames(t, filepath.Join(s.root, path))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has attributes %q; want %q", path, got, want)
		}
	}
	if res.SizeBytes != int64(len("body"+"secret"+"in a directory nobody may enter")) || res.Entries != 14 || res.DroppedXattrs != 6 {
		t.Errorf("result %+v", res)
	}
	if body, err := os.ReadFile(filepath.Join(s.root, "hard2")); err != nil || string(body) != "body" {
		t.Errorf("hard2 = %q, %v", body, err)
	}
}

func TestXattrKept(t *testing.T) {
	tests := []struct {
		name string
		want bool
	}{
		{"user.x", true}, {"user.overlayx", true}, {"user.overlay.x", false}, {"user.overlay", false}, {"user.", false}, {"user", false},
		{"security.capability", true}, {"security.capability2", false}, {"security.ima", false}, {"trusted.x", false}, {"system.posix_acl_default", false},
		{"", false}, {"x", false}, {"User.x", false}, {"user.\x00", false}, {"user." + strings.Repeat("x", 251), false}, {"user." + strings.Repeat("x", 250), true},
	}
	for _, tt := range tests {
		if got := xattrKept(tt.name); got != tt.want {
			t.Errorf("xattrKept(%q) = %t; want %t", tt.name, got, tt.want)
		}
	}
}

func TestApplyWhiteouts(t *testing.T) {
	const whiteout = "20000"
	tests := []struct {
		name   string
		parts  []part
		tree   map[string]string
		opaque []string
	}{
		{"of a name", []part{file(".wh.gone", "")}, map[string]string{"gone": whiteout}, nil},
		{"in a new directory", []part{file("a/b/.wh.gone", "")}, map[string]string{"a": "40755", "a/b": "40755", "a/b/gone": whiteout}, nil},
		{"as a hard link of aufs", []part{hard(".wh.gone", ".wh..wh.x")}, map[string]string{"gone": whiteout}, nil},
		{"twice", []part{file(".wh.gone", ""), file(".wh.gone", "")}, map[string]string{"gone": whiteout}, nil},
		{"then a file", []part{file(".wh.f", ""), file("f", "x")}, map[string]string{"f": "100644"}, nil},
		{"behind a file", []part{file("f", "x"), file(".wh.f", "")}, map[string]string{"f": "100644"}, nil},
		{"then a directory", []part{file(".wh.d", ""), dir("d")}, map[string]string{"d": "40755"}, []string{"d"}},
		{"behind a directory", []part{dir("d"), file("d/x", ""), file(".wh.d", "")}, map[string]string{"d": "40755", "d/x": "100644"}, []string{"d"}},
		{"opaque", []part{dir("d"), file("d/.wh..wh..opq", ""), file("d/x", "")}, map[string]string{"d": "40755", "d/x": "100644"}, []string{"d"}},
		{"opaque behind", []part{dir("d"), file("d/x", ""), file("d/.wh..wh..opq", "")}, map[string]string{"d": "40755", "d/x": "100644"}, []string{"d"}},
		{"opaque first", []part{file("d/.wh..wh..opq", ""), header(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}, "")}, map[string]string{"d": "40700"}, []string{"d"}},
		{"opaque root", []part{file("./.wh..wh..opq", "")}, map[string]string{}, []string{""}},
		{"opaque and gone", []part{file("d/.wh..wh..opq", ""), file("d", "")}, map[string]string{"d": "100644"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			res, err := s.apply(t, archive(t, tt.parts...))
			checkError(t, err, "")
			if diff := cmp.Diff(tt.tree, s.modes(t)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			if !slices.Equal(res.Opaque, tt.opaque) {
				t.Errorf("Opaque = %q; want %q", res.Opaque, tt.opaque)
			}
		})
	}
}

func TestApplyDuplicates(t *testing.T) {
	tests := []struct {
		name  string
		parts []part
		tree  map[string]string
	}{
		{"file, file", []part{file("x", "1"), header(tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o600}, "2")}, map[string]string{"x": "100600"}},
		{"file does not write into a hard link", []part{file("x", "1"), hard("y", "x"), header(tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o600}, "2")},
			map[string]string{"x": "100600", "y": "100644"}},
		{"directory, directory", []part{dir("d"), file("d/x", ""), header(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}, "")},
			map[string]string{"d": "40700", "d/x": "100644"}},
		{"directory, file", []part{dir("d"), file("d/a/b/c", ""), file("d/x", ""), file("d", "")}, map[string]string{"d": "100644"}},
		{"directory, file, directory", []part{dir("d"), file("d/x", ""), file("d", ""), dir("d"), file("d/y", "")}, map[string]string{"d": "40755", "d/y": "100644"}},
		{"file, link", []part{file("x", ""), link("x", "y")}, map[string]string{"x": "120777 y"}},
		{"link, fifo", []part{link("x", "y"), typed(tar.TypeFifo, "x")}, map[string]string{"x": "10644"}},
		{"implied, then listed", []part{file("d/x", ""), header(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o711}, "")}, map[string]string{"d": "40711", "d/x": "100644"}},
		{"device, file", []part{typed(tar.TypeChar, "x"), file("x", ""), hard("y", "x")}, map[string]string{"x": "100644", "y": "100644"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			_, err := s.apply(t, archive(t, tt.parts...))
			checkError(t, err, "")
			if diff := cmp.Diff(tt.tree, s.modes(t)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

func TestApplyCompression(t *testing.T) {
	plain := archive(t, file("a", "1"), file("b", strings.Repeat("2", 100_000)))
	half := len(plain) / 2
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"plain", plain, ""},
		{"gzip", gzipped(t, plain), ""},
		{"gzip of two members", slices.Concat(gzipped(t, plain[:half]), gzipped(t, plain[half:])), ""},
		{"zstd", zstded(t, plain), ""},
		{"zstd of two frames", slices.Concat(zstded(t, plain[:half]), zstded(t, plain[half:])), ""},
		{"zstd behind a skippable frame", slices.Concat(skippable, zstded(t, plain)), ""},
		{"end padded", slices.Concat(plain, make([]byte, 9000)), ""},
		{"empty", nil, "the archive is empty"},
		{"gzip of nothing", gzipped(t, nil), "truncated"},
		{"text", []byte("this is no archive"), "truncated"},
		{"zeros", make([]byte, 1024), ""},
		{"one zero block", make([]byte, 512), ""},
		{"xz", []byte("\xfd7zXZ\x00rest"), "xz is not supported"},
		{"bzip2", []byte("BZh91AY&SY"), "bzip2 is not supported"},
		{"zip", []byte("PK\x03\x04rest of it"), "zip is not supported"},
		{"plain cut in a file", plain[:1700], "truncated"},
		{"plain cut between entries", plain[:1024], "truncated"},
		{"no end mark", bytes.TrimRight(plain, "\x00"), "truncated"},
		{"gzip cut", gzipped(t, plain)[:100], "truncated"},
		{"gzip without its sum", gzipped(t, plain)[:len(gzipped(t, plain))-8], "truncated"},
		{"zstd cut", zstded(t, plain)[:50], "truncated"},
		{"gzip with trailing junk", append(gzipped(t, plain), "junk that is longer"...), "gzip"},
		{"archive behind the archive", slices.Concat(plain, plain), "data behind the end"},
		{"byte behind the archive", append(slices.Clone(plain), 'x'), "data behind the end"},
		{"gzip with a flipped bit", flip(gzipped(t, plain), 60), ""},
		{"gzip in gzip", gzipped(t, gzipped(t, plain)), "truncated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			res, err := s.apply(t, tt.in)
			if strings.Contains(tt.name, "flipped") {
				if err == nil {
					t.Error("Apply succeeded")
				}
				return
			}
			checkError(t, err, tt.want)
			if err == nil && len(s.modes(t)) == 2 && !strings.Contains(tt.name, "padded") && res.DiffID != sha256.Sum256(plain) {
				t.Errorf("DiffID = %x; want that of the plain archive", res.DiffID)
			}
			if strings.Contains(tt.name, "padded") && res.DiffID != sha256.Sum256(tt.in) {
				t.Errorf("DiffID = %x; want that of all bytes", res.DiffID)
			}
		})
	}
}

func flip(data []byte, at int) []byte {
	data = slices.Clone(data)
	data[at] ^= 0x10
	return data
}

// TestZstdWindow: a frame may ask its reader for memory. The twin with the
// greatest window that is allowed is read.
func TestZstdWindow(t *testing.T) {
	plain := archive(t, file("a", "1"))
	for _, tt := range []struct {
		log  byte
		want string
	}{{27, ""}, {28, "window"}, {41, "window"}} {
		// A frame header without a size: a descriptor and the window, whose
		// exponent counts from 10 (RFC 8878, 3.1.1.1.2), and raw blocks.
		frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, (tt.log - 10) << 3}
		size := uint32(len(plain))<<3 | 1
		frame = append(frame, byte(size), byte(size>>8), byte(size>>16))
		_, err := newSite(t).apply(t, append(frame, plain...))
		checkError(t, err, tt.want)
	}
}

// zeroReader is an endless run of zeros.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// bomb compresses an archive with one file of size zeros.
func bomb(t *testing.T, size int64, compress func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var buf bytes.Buffer
	c := compress(&buf)
	w := tar.NewWriter(c)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: size, Mode: 0o644})
	if err == nil {
		_, err = io.CopyN(w, zeroReader{}, size)
	}
	if err := errors.Join(err, w.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipTo(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }

func zstdTo(w io.Writer) io.WriteCloser {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

func TestBombs(t *testing.T) {
	many := func(n int) []part {
		var parts []part
		for i := range n {
			parts = append(parts, file(fmt.Sprint(i), ""))
		}
		return parts
	}
	deep := strings.Repeat("d/", maxDepth-1)
	tests := []struct {
		name string
		in   []byte
		opt  func(*Options)
		want string
	}{
		{"gzip over the bytes", bomb(t, 10<<20, gzipTo), func(o *Options) { o.MaxBytes = 8 << 20 }, "more than 8388608 bytes"},
		{"gzip within the bytes", bomb(t, 7<<20, gzipTo), func(o *Options) { o.MaxBytes = 8 << 20 }, ""},
		{"zstd over the bytes", bomb(t, 10<<20, zstdTo), func(o *Options) { o.MaxBytes = 8 << 20 }, "more than 8388608 bytes"},
		{"bytes in padding", slices.Concat(archive(t, file("x", "")), make([]byte, 2<<20)), func(o *Options) { o.MaxBytes = 1 << 20 }, "more than 1048576 bytes"},
		{"bytes in names", archive(t, file(strings.Repeat("x/", 100)+"y", ""), file("z", "")), func(o *Options) { o.MaxBytes = 1024 }, "more than 1024 bytes"},
		{"gzip ratio", bomb(t, 6<<20, gzipTo), func(o *Options) { o.MaxBytes, o.ratioFloor = 1<<40, 4<<20 }, "more than 200 times"},
		{"gzip ratio below the floor", bomb(t, 6<<20, gzipTo), func(o *Options) { o.MaxBytes, o.ratioFloor = 1<<40, 16<<20 }, ""},
		{"sparse ratio", archive(t, sparse(1<<31, 0)), func(o *Options) { o.MaxBytes, o.ratioFloor = 1<<40, 4<<20 }, "more than 200 times"},
		{"entries", archive(t, many(21)...), func(o *Options) { o.MaxEntries = 20 }, "more than 20 entries"},
		{"entries within", archive(t, many(20)...), func(o *Options) { o.MaxEntries = 20 }, ""},
		{"implied directories", archive(t, file(deep+"x", ""), file("e/"+deep[2:]+"y", ""), file("z", "")), func(o *Options) { o.MaxEntries = 400 }, "more than 400 entries"},
		{"implied directories within", archive(t, file(deep+"x", ""), file("z", "")), func(o *Options) { o.MaxEntries = 400 }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			_, err := s.apply(t, tt.in, tt.opt)
			checkError(t, err, tt.want)
			if what := s.touched(t); what != "" {
				t.Errorf("sentinel: %s", what)
			}
		})
	}
}

// TestNotesBound: names that must be remembered are bounded, apart from the
// number of entries.
func TestNotesBound(t *testing.T) {
	a := &applier{opaque: make(map[string]bool)}
	name := strings.Repeat("x", 4000)
	for range 1_000_000 {
		if err := note(a, a.opaque, name, true); err != nil {
			t.Fatalf("the same name is counted again: %v", err)
		}
	}
	for i := range maxNotes {
		if err := note(a, a.opaque, fmt.Sprint(i, name), true); err != nil {
			return
		}
	}
	t.Error("no bound")
}

func TestProgress(t *testing.T) {
	body := make([]byte, 3*tickBytes)
	for i := range body {
		body[i] = byte(rand.IntN(256))
	}
	data := archive(t, file("x", string(body)))
	calls := 0
	stop := errors.New("stop")
	_, err := newSite(t).apply(t, data, func(o *Options) {
		o.Progress = func(int64) error { calls++; return nil }
	})
	if err != nil || calls < 2 {
		t.Errorf("Apply = %v after %d calls of Progress; want some", err, calls)
	}
	_, err = newSite(t).apply(t, data, func(o *Options) {
		o.Progress = func(int64) error { return stop }
	})
	if !errors.Is(err, stop) {
		t.Errorf("Apply = %v; want the error of Progress", err)
	}
	var devices []string
	_, err = newSite(t).apply(t, archive(t, typed(tar.TypeChar, "dev/null"), typed(tar.TypeBlock, "/dev/sda")), func(o *Options) {
		o.Device = func(path string) { devices = append(devices, path) }
	})
	if want := []string{"dev/null", "dev/sda"}; err != nil || !slices.Equal(devices, want) {
		t.Errorf("devices %q, %v; want %q", devices, err, want)
	}
}

func TestCleanPath(t *testing.T) {
	tests := []struct{ in, want, err string }{
		{"a", "a", ""}, {"a/b/", "a/b", ""}, {"/", "", ""}, {".", "", ""}, {"./a/./b", "a/b", ""}, {"...", "...", ""}, {"..a", "..a", ""},
		{"", "", "empty"}, {"..", "", `".."`}, {"a/..", "", `".."`}, {"a\x00b", "", "NUL"},
		{strings.Repeat("a", 255), strings.Repeat("a", 255), ""}, {strings.Repeat("a", 256), "", "255"},
		{strings.Repeat("/", 4096), "", "4095"}, {strings.Repeat("/", 4095), "", ""},
	}
	for _, tt := range tests {
		got, err := cleanPath(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("cleanPath(%.20q) = %.20q, %v; want %.20q, %q", tt.in, got, err, tt.want, tt.err)
		}
	}
}
