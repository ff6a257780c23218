package layer

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// An attack is an archive that tries to leave its directory, or to get
// something into it that does not belong there.
type attack struct {
	name  string
	parts []part
	want  string            // in the error; "" if the archive is applied
	tree  map[string]string // then what there is; nil is not compared
	// naive says that a careless program would have touched the sentinel.
	naive bool
}

const (
	symlinkParent = "symbolic link or no directory"
	dotdot        = `".." in its name`
)

// attacks reach for the directory sentinel, absolute, and for sentinelName.
func attacks(sentinel string) []attack {
	out := sentinelName
	deep := strings.Repeat("d/", maxDepth)
	return []attack{
		// names
		{"dot-dot", []part{file(out+"/new", "x")}, dotdot, nil, true},
		{"dot-dot below", []part{dir("a"), file("a/../"+out+"/new", "x")}, dotdot, nil, true},
		{"dot-dot that stays", []part{file("a/../b", "x")}, dotdot, nil, false},
		{"dot-dot after dot", []part{file("./"+out+"/file", "x")}, dotdot, nil, true},
		{"dot-dot directory", []part{header(tar.Header{Typeflag: tar.TypeDir, Name: out, Mode: 0o777}, "")}, dotdot, nil, true},
		{"dot-dot link", []part{link(out+"/new", "x")}, dotdot, nil, true},
		{"dot-dot fifo", []part{typed(tar.TypeFifo, out+"/new")}, dotdot, nil, false},
		{"dot-dot device", []part{typed(tar.TypeChar, out+"/new")}, dotdot, nil, false},
		{"absolute", []part{file("/abs/x", "x")}, "", map[string]string{"abs": "40755", "abs/x": "100644"}, false},
		{"many slashes", []part{file("//a///x", "x")}, "", map[string]string{"a": "40755", "a/x": "100644"}, false},
		{"many dots", []part{file("././x", "x")}, "", map[string]string{"x": "100644"}, false},
		{"slash dot is the root", []part{dir("/.")}, "", map[string]string{}, false},
		{"root as file", []part{file(".", "x")}, "root must be a directory", nil, false},
		{"root as link", []part{link("./", sentinel)}, "slash at the end", nil, false},
		{"root as link without slash", []part{link(".", sentinel)}, "root must be a directory", nil, false},
		{"root as device", []part{block(tar.TypeChar, "/", "", nil)}, "slash at the end", nil, false},
		{"empty name", []part{block(tar.TypeReg, "", "x", nil)}, "name is empty", nil, false},
		{"strange bytes", []part{file("a\nb\x1b[2J", "x"), block(tar.TypeReg, "\xff\xfe", "", nil)}, "",
			map[string]string{"a\nb\x1b[2J": "100644", "\xff\xfe": "100644"}, false},
		{"backslash is a letter", []part{file(`..\sentinel\new`, "x")}, "", map[string]string{`..\sentinel\new`: "100644"}, false},
		{"long name", []part{file(strings.Repeat("a/", 2100)+"x", "x")}, "at most 4095", nil, false},
		{"long component", []part{file(strings.Repeat("a", 256), "x")}, "at most 255", nil, false},
		{"deep", []part{file(deep+"x", "x")}, "deeper than 256", nil, false},
		{"file with a slash", []part{file("x", ""), block(tar.TypeReg, "y/", "x", nil)}, "slash at the end", nil, false},
		{"pax path overrides", []part{block(tar.TypeXHeader, "h", pax("path", out+"/new"), nil), block(tar.TypeReg, "innocent", "x", nil)}, dotdot, nil, true},
		{"gnu long name overrides", []part{block('L', "././@LongLink", out+"/new\x00", asGNU), block(tar.TypeReg, "innocent", "x", asGNU)}, dotdot, nil, true},
		{"ustar prefix", []part{block(tar.TypeReg, "new", "x", func(b []byte) { copy(b[345:], out) })}, dotdot, nil, true},
		{"other case is another name", []part{link("link", sentinel), file("LINK/new", "x")}, "", map[string]string{
			"link": "120777 " + sentinel, "LINK": "40755", "LINK/new": "100644"}, false},

		// symbolic links
		{"through absolute link", []part{link("l", sentinel), file("l/new", "x")}, symlinkParent, nil, true},
		{"through relative link", []part{link("l", out), file("l/new", "x")}, symlinkParent, nil, true},
		{"through link in a directory", []part{dir("d"), link("d/l", "../"+out), file("d/l/new", "x")}, symlinkParent, nil, true},
		{"through link in the middle", []part{link("l", out), file("l/dir/new", "x")}, symlinkParent, nil, true},
		{"over a file through link in the middle", []part{link("l", out), file("l/dir/file", "x")}, symlinkParent, nil, true},
		{"link removed through link in the middle", []part{link("l", out), link("l/dir/file", "x")}, symlinkParent, nil, true},
		{"hard link through link in the middle", []part{link("l", out), hard("h", "l/dir/file")}, symlinkParent, nil, true},
		{"hard link into link in the middle", []part{file("f", "x"), link("l", out), hard("l/dir/new", "f")}, symlinkParent, nil, true},
		{"through link to here", []part{link("l", "."), file("l/x", "x")}, symlinkParent, nil, false},
		{"through chain", []part{link("a", "b"), link("b", out), file("a/new", "x")}, symlinkParent, nil, true},
		{"directory through link", []part{link("l", out), dir("l/new")}, symlinkParent, nil, true},
		{"link through link", []part{link("l", out), link("l/new", "x")}, symlinkParent, nil, true},
		{"device through link", []part{link("l", out), typed(tar.TypeChar, "l/new")}, symlinkParent, nil, false},
		{"fifo through link", []part{link("l", out), typed(tar.TypeFifo, "l/new")}, symlinkParent, nil, false},
		{"implied directory through link", []part{link("l", out), file("l/a/b/new", "x")}, symlinkParent, nil, true},
		{"file over link", []part{link("l", out+"/file"), file("l", "x")}, "", map[string]string{"l": "100644"}, true},
		{"directory over link", []part{link("l", out), dir("l"), file("l/new", "x")}, "", map[string]string{"l": "40755", "l/new": "100644"}, true},
		{"link over directory", []part{dir("d"), file("d/x", "x"), link("d", out), file("d/new", "x")}, symlinkParent, nil, true},
		{"link over cached directory", []part{file("d/x", "x"), link("d", out), file("d/x", "y")}, symlinkParent, nil, true},
		{"times of a directory that became a link", []part{dir("dir"), link("dir", out)}, "", map[string]string{"dir": "120777 " + out}, false},
		{"slash behind link", []part{link("l/", sentinel)}, "slash at the end", nil, false},
		{"empty target", []part{block(tar.TypeSymlink, "l", "", nil)}, "target has 0 bytes", nil, false},
		{"long target", []part{link("l", strings.Repeat("x", 4096))}, "target has 4096 bytes", nil, false},

		// hard links
		{"hard link out", []part{hard("h", out+"/file")}, dotdot, nil, true},
		{"hard link out, then write", []part{hard("h", out+"/file"), file("h", "x")}, dotdot, nil, true},
		{"hard link to absolute", []part{hard("h", sentinel+"/file")}, "no such file", nil, false},
		{"hard link through link", []part{link("l", out), hard("h", "l/file")}, symlinkParent, nil, true},
		{"hard link to a link, then write", []part{link("l", out+"/file"), hard("h", "l"), file("h", "x")}, "",
			map[string]string{"l": "120777 " + out + "/file", "h": "100644"}, true},
		{"hard link to itself", []part{file("h", "x"), hard("h", "./h")}, "to itself", nil, false},
		{"hard link to a directory", []part{dir("d"), hard("h", "d")}, "no file of this archive", nil, false},
		{"hard link to the root", []part{hard("h", ".")}, "no file of this archive", nil, false},
		{"hard link to nothing", []part{hard("h", "missing")}, "no file of this archive", nil, false},
		{"hard link to a whiteout", []part{file(".wh.w", ""), hard("h", "w")}, "no file of this archive", nil, false},
		{"hard link as root", []part{file("x", "x"), hard(".", "x")}, "root must be a directory", nil, false},
		{"hard link to what it removes", []part{file("d/x", "x"), hard("d", "d/x")}, "no such file", nil, false},
		{"pax linkpath overrides", []part{file("x", ""), block(tar.TypeXHeader, "p", pax("linkpath", out+"/file"), nil), block(tar.TypeLink, "h", "", nil)}, dotdot, nil, true},

		// other types
		{"device", []part{typed(tar.TypeChar, "c"), typed(tar.TypeBlock, "b")}, "", map[string]string{}, false},
		{"device 0:0 is no whiteout", []part{file("x", ""), header(tar.Header{Typeflag: tar.TypeChar, Name: "c"}, "")}, "", map[string]string{"x": "100644"}, false},
		{"device over file", []part{file("x", "x"), typed(tar.TypeChar, "x")}, "", map[string]string{}, false},
		{"hard link to a device", []part{typed(tar.TypeBlock, "dev/sda"), hard("h", "dev/sda")}, "", map[string]string{"dev": "40755"}, false},
		{"below a file", []part{file("f", ""), file("f/x", "")}, symlinkParent, nil, false},
		{"below a fifo", []part{typed(tar.TypeFifo, "f"), file("f/x", "")}, symlinkParent, nil, false},
		{"below a whiteout device", []part{file(".wh.f", ""), file("f/x", "")}, symlinkParent, nil, false},
		{"unknown type", []part{block('Z', "z", "", nil)}, "not known", nil, false},

		// whiteouts
		{"whiteout of dot-dot", []part{file(".wh...", "")}, "no name", nil, false},
		{"whiteout of dot", []part{file("a/.wh..", "")}, "no name", nil, false},
		{"whiteout of nothing", []part{file(".wh.", "")}, "no name", nil, false},
		{"whiteout as link", []part{link(".wh.x", sentinel)}, "empty file", nil, false},
		{"whiteout as directory", []part{dir(".wh.x")}, "empty file", nil, false},
		{"opaque as link", []part{link(".wh..wh..opq", sentinel)}, "empty file", nil, false},
		{"opaque as directory", []part{dir("d/.wh..wh..opq/")}, "empty file", nil, false},
		{"whiteout through link", []part{link("l", out), file("l/.wh.file", "")}, symlinkParent, nil, true},
		{"opaque through link", []part{link("l", out+"/dir"), file("l/.wh..wh..opq", "")}, symlinkParent, nil, true},
		{"below a whiteout name", []part{file(".wh.x/y", "")}, "below a whiteout", nil, false},
		{"below an opaque name", []part{file("d/.wh..wh..opq/y", "")}, "below a whiteout", nil, false},
		{"bookkeeping of aufs", []part{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "")}, "", map[string]string{}, false},

		// owners
		{"uid too large", []part{header(tar.Header{Typeflag: tar.TypeReg, Name: "x", Uid: 65536}, "")}, "owner 65536:0", nil, false},
		{"gid too large", []part{header(tar.Header{Typeflag: tar.TypeDir, Name: "x", Gid: 1 << 31}, "")}, "owner 0:2147483648", nil, false},
		{"uid negative", []part{block(tar.TypeXHeader, "p", pax("uid", "-1"), nil), block(tar.TypeReg, "x", "", nil)}, "owner -1:0", nil, false},
		{"largest uid", []part{header(tar.Header{Typeflag: tar.TypeReg, Name: "x", Uid: 65535, Gid: 65535}, "")}, "", map[string]string{"x": "100644"}, false},

		// the format
		{"negative size", []part{block(tar.TypeReg, "x", "", func(b []byte) { copy(b[124:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") })}, "tar", nil, false},
		{"size beyond the end", []part{block(tar.TypeReg, "x", "", func(b []byte) { copy(b[124:], "00000100000\x00") })}, "truncated", nil, false},
		{"huge size", []part{block(tar.TypeReg, "x", "", func(b []byte) { copy(b[124:], "77777777777\x00") })}, "more than", nil, false},
		{"huge pax header", []part{block(tar.TypeXHeader, "p", pax("comment", strings.Repeat("x", 2<<20)), nil), block(tar.TypeReg, "x", "", nil)}, "too long", nil, false},
		{"huge sparse file", []part{sparse(1<<60, 0)}, "more than", nil, false},
		{"negative sparse file", []part{sparse(-1, 0)}, "tar", nil, false},
		{"sparse map of many entries", []part{sparse(1<<40, 1<<40)}, "truncated", nil, false},
	}
}

// asGNU gives a header the magic of GNU tar.
func asGNU(b []byte) { copy(b[257:], "ustar  \x00") }

// sparse writes a file of GNU's sparse format 1.0 without data, of the given
// size, with a map that claims to have the given number of entries.
func sparse(size, entries int64) part {
	return func(t testing.TB, w *tar.Writer, raw *bytes.Buffer) {
		records := pax("GNU.sparse.major", "1") + pax("GNU.sparse.minor", "0") + pax("GNU.sparse.name", "s") +
			pax("GNU.sparse.realsize", itoa(size))
		block(tar.TypeXHeader, "p", records, nil)(t, w, raw)
		block(tar.TypeReg, "s", itoa(entries)+"\n"+strings.Repeat("\x00", blockSize-len(itoa(entries))-1), nil)(t, w, raw)
	}
}

// TestAttacks applies each archive beside a sentinel. The twin shows that the
// archives mean it: a careless program does touch the sentinel.
func TestAttacks(t *testing.T) {
	for _, tt := range attacks("") {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			a := find(attacks(s.sentinel), tt.name)
			res, err := s.apply(t, archive(t, a.parts...))
			checkError(t, err, a.want)
			if what := s.touched(t); what != "" {
				t.Errorf("sentinel: %s", what)
			}
			if a.tree != nil {
				if diff := cmp.Diff(a.tree, s.modes(t)); diff != "" {
					t.Errorf("tree (-want +got):\n%s", diff)
				}
			}
			checkTree(t, s.root)
			if err == nil && strings.Contains(a.name, "device") && res.Devices == 0 {
				t.Error("no device was counted")
			}
		})
		t.Run(tt.name+", twin", func(t *testing.T) {
			s := newSite(t)
			a := find(attacks(s.sentinel), tt.name)
			naiveApply(s.root, archive(t, a.parts...))
			if what := s.touched(t); (what != "") != a.naive {
				t.Errorf("sentinel after a careless program: %q; want touched %t", what, a.naive)
			}
		})
	}
}

func find(all []attack, name string) attack {
	for _, a := range all {
		if a.name == name {
			return a
		}
	}
	panic("BUG: no attack " + name)
}

// naiveApply is what one writes without thinking: it joins names and follows
// links. It stops at the first error of an entry, not of the archive. It
// makes neither devices nor FIFOs, and stays small.
func naiveApply(root string, data []byte) {
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if err != nil || hdr.Size > 1<<20 {
			return
		}
		path := root + "/" + strings.TrimPrefix(hdr.Name, "/")
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		switch hdr.Typeflag {
		case tar.TypeDir:
			_ = os.Mkdir(path, 0o755)
			_ = os.Chmod(path, hdr.FileInfo().Mode())
		case tar.TypeReg:
			if body, err := io.ReadAll(tr); err == nil {
				_ = os.WriteFile(path, body, 0o644)
			}
		case tar.TypeSymlink:
			_ = os.RemoveAll(path)
			_ = os.Symlink(hdr.Linkname, path)
		case tar.TypeLink:
			_ = os.Link(root+"/"+strings.TrimPrefix(hdr.Linkname, "/"), path)
		}
	}
}

// checkTree holds what is true of every applied tree, whole or not.
func checkTree(t testing.TB, root string) {
	t.Helper()
	err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFBLK, unix.S_IFSOCK:
			t.Errorf("%q has mode %o", path, st.Mode)
		case unix.S_IFCHR:
			if !isWhiteout(&st) {
				t.Errorf("%q is device %#x", path, st.Rdev)
			}
		}
		if st.Uid > MaxID || st.Gid > MaxID {
			t.Errorf("%q belongs to %d:%d", path, st.Uid, st.Gid)
		}
		for _, name := range xattrNames(t, path) {
			if !xattrKept(name) {
				t.Errorf("%q has attribute %q", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func xattrNames(t testing.TB, path string) []string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
}

// FuzzApplyLayer holds that nothing beside the directory changes, that nothing
// gets into it that must not, and that the bounds hold.
func FuzzApplyLayer(f *testing.F) {
	for _, a := range attacks(sentinelName) {
		if a.name != "huge pax header" {
			f.Add(archive(f, a.parts...))
		}
	}
	f.Add(archive(f, dir("d"), file("d/f", "x"), hard("h", "d/f"), link("l", "d"), file("d/.wh..wh..opq", ""), file(".wh.gone", "")))
	f.Add(gzipped(f, archive(f, file("f", "x"))))
	f.Add(zstded(f, archive(f, file("f", "x"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		const maxBytes, maxEntries = 1 << 20, 300
		s := newSite(t)
		res, err := s.apply(t, data, func(o *Options) { o.MaxBytes, o.MaxEntries = maxBytes, maxEntries })
		if what := s.touched(t); what != "" {
			t.Errorf("sentinel: %s", what)
		}
		checkTree(t, s.root)
		tree := s.modes(t)
		if len(tree) > maxEntries+maxDepth {
			t.Errorf("%d entries", len(tree))
		}
		if err != nil {
			return
		}
		if res.SizeBytes > maxBytes || res.Entries > maxEntries {
			t.Errorf("result %+v is out of bounds", res)
		}
		for _, d := range res.Opaque {
			if info, err := os.Lstat(filepath.Join(s.root, d)); err != nil || !info.IsDir() {
				t.Errorf("opaque %q: %v, %v", d, info, err)
			}
		}
	})
}
