package imagestore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/imagestore/internal/testprog"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/internal/testroot"
)

// testWorkerID is the first host id of workers in these tests.
const testWorkerID = 1 << 30

// importStore returns a store that can import.
func importStore(t testing.TB) *Store {
	t.Helper()
	testneed.Root(t)
	return testStore(t, Config{UnpackPath: testprog.Build(t, testprog.Unpack), WorkerFirstID: testWorkerID})
}

// reopen opens the same store anew, as another process would.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	return testStore(t, s.cfg)
}

// tarball makes an archive; headers without a type are files whose body is
// their name.
func tarball(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := ""
		if h.Typeflag == 0 {
			h.Typeflag, body = tar.TypeReg, h.Name
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Size, h.Format = int64(len(body)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func mustImport(t testing.TB, s *Store, name string, archive []byte) Image {
	t.Helper()
	image, err := s.Import(t.Context(), name, bytes.NewReader(archive), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// debris lists what no image has any business with.
func debris(t testing.TB, s *Store) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{dirStaging, dirTrash} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return append(found, stray(t, s)...)
}

// stray lists layers, records and blobs that no reference leads to, and
// temporary files.
func stray(t testing.TB, s *Store) []string {
	t.Helper()
	recs, err := s.readRefs()
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, rec := range recs {
		known[rec.ID.hex()] = true
		for _, d := range rec.Layers {
			known[d.hex()] = true
		}
	}
	var found []string
	for _, dir := range []string{dirLayers, dirLayerInfo, dirBlobs, dirRefs} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if dir == dirRefs && !strings.HasPrefix(e.Name(), ".") || known[e.Name()] {
				continue
			}
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}

// netRaw is a security.capability with CAP_NET_RAW (capabilities(7)).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestImport(t *testing.T) {
	s := importStore(t)
	plain := tarball(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o750, Uid: 1, Gid: 2},
		tar.Header{Name: "root", Mode: 0o4755},
		tar.Header{Name: "alice", Uid: 1000, Gid: 1000, Mode: 0o6711},
		tar.Header{Name: "nobody", Uid: 65535, Gid: 65534},
		tar.Header{Name: "ping", PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": netRaw, "SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.redirect": "/"}},
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "alice"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/etc/passwd", Uid: 5},
		tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3},
		tar.Header{Name: ".wh.gone"},
		tar.Header{Name: "d/.wh..wh..opq"},
		tar.Header{Name: "d/x"},
	)
	want := mustImport(t, s, "test:plain", plain)
	if want.Name != "test:plain" || want.Layers[0] != digestOf(sha256.Sum256(plain)) || want.SizeBytes != int64(len("root"+"alice"+"nobody"+"ping"+"d/x")) {
		t.Errorf("image %+v", want)
	}
	for name, data := range map[string][]byte{"test:gz": gz(t, plain), "test:zst": zst(t, plain)} {
		got := mustImport(t, s, name, data)
		want := want
		want.Name, want.Created = got.Name, got.Created
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-plain +got):\n%s", name, diff)
		}
	}
	dir := mustMounts(t, s, "test:plain").Layers[0]
	if dir != s.path(dirLayers, want.Layers[0].hex()) {
		t.Errorf("layer is in %q", dir)
	}
	for name, want := range map[string]string{
		".": "40750 1:2", "root": "104755 0:0", "alice": "106711 1000:1000", "hard": "106711 1000:1000", "nobody": "100755 65535:65534",
		"ping": "100755 0:0", "link": "120777 5:0", "gone": "20000 0:0", "d": "40755 0:0", "dev": "40755 0:0",
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
	for _, x := range []struct{ path, name, want string }{
		{"ping", "security.capability", netRaw}, {"ping", "user.note", "kept"}, {"ping", "trusted.overlay.redirect", ""},
		{"d", "trusted.overlay.opaque", "y"}, {".", "trusted.overlay.opaque", ""},
	} {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(dir, x.path), x.name, buf)
		if got := string(buf[:max(n, 0)]); got != x.want || (err != nil) != (x.want == "") {
			t.Errorf("%s of %s = %q, %v; want %q", x.name, x.path, got, err, x.want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "dev/null")); err == nil {
		t.Error("there is a device")
	}
	if got := debris(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
}

func TestImportRefused(t *testing.T) {
	s := importStore(t)
	before := mustImport(t, s, "kept", tarball(t, tar.Header{Name: "x"}))
	good := tarball(t, tar.Header{Name: "y"})
	tests := []struct {
		name, image string
		archive     []byte
		opt         ImportOptions
		want        string // "" is success
	}{
		{"good", "new", good, ImportOptions{}, ""},
		{"invalid name", "../x", good, ImportOptions{}, ErrInvalidName.Error()},
		{"host", "host", good, ImportOptions{}, "built in"},
		{"empty", "kept", nil, ImportOptions{}, "the archive is empty"},
		{"truncated", "kept", good[:600], ImportOptions{}, "truncated"},
		{"traversal", "kept", tarball(t, tar.Header{Name: "../x\x1b[2J"}), ImportOptions{}, `entry "../x\x1b[2J": ".." in its name`},
		{"owner", "kept", tarball(t, tar.Header{Name: "x", Uid: 65536}), ImportOptions{}, `entry "x": owner 65536:0`},
		{"bytes", "kept", tarball(t, tar.Header{Name: "x"}), ImportOptions{MaxBytes: 1024}, "more than 1024 bytes"},
		{"entries", "kept", tarball(t, tar.Header{Name: "x"}, tar.Header{Name: "y"}), ImportOptions{MaxEntries: 1}, "more than 1 entries"},
		{"negative bound", "kept", good, ImportOptions{MaxBytes: -1}, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Import(t.Context(), tt.image, bytes.NewReader(tt.archive), tt.opt)
			checkError(t, err, tt.want)
			if got := debris(t, s); got != nil {
				t.Errorf("left behind: %q", got)
			}
			if m := mustMounts(t, s, "kept"); m.ImageID != before.ID {
				t.Errorf("kept is %s; want %s as before", m.ImageID, before.ID)
			}
		})
	}
	for _, id := range []uint32{0, 1<<31 - 1, 1<<32 - 1} {
		bad := testStore(t, Config{Dir: s.cfg.Dir, UnpackPath: s.cfg.UnpackPath, WorkerFirstID: id})
		_, err := bad.Import(t.Context(), "new", bytes.NewReader(good), ImportOptions{})
		checkError(t, err, "no ids for the worker")
	}
}

// TestImportReplaces: the name moves, and what it meant is collected.
func TestImportReplaces(t *testing.T) {
	s := importStore(t)
	one := mustImport(t, s, "a", tarball(t, tar.Header{Name: "1"}))
	mustImport(t, s, "b", tarball(t, tar.Header{Name: "1"}))
	two := mustImport(t, s, "a", tarball(t, tar.Header{Name: "2"}))
	if one.ID == two.ID || mustMounts(t, s, "a").ImageID != two.ID || mustMounts(t, s, "b").ImageID != one.ID {
		t.Errorf("a was %s, is %s; b is %s", one.ID, two.ID, mustMounts(t, s, "b").ImageID)
	}
	if got := debris(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
	mustImport(t, s, "b", tarball(t, tar.Header{Name: "2"}))
	if got := layerDirs(t, s); got != 1 {
		t.Errorf("%d layers; want one for both", got)
	}
	if err := s.Collect(t.Context(), inUse()); err != nil || debris(t, s) != nil {
		t.Errorf("Collect = %v, left behind: %q", err, debris(t, s))
	}
}

// slow delivers an archive and then waits for its context.
type slow struct {
	r       io.Reader
	drained chan struct{}
	once    sync.Once
	ctx     context.Context
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err == io.EOF {
		s.once.Do(func() { close(s.drained) })
		<-s.ctx.Done()
		return 0, errors.New("gave up")
	}
	return n, err
}

func TestImportCancelled(t *testing.T) {
	s := importStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	archive := tarball(t, tar.Header{Name: "x"})
	r := &slow{r: bytes.NewReader(archive[:1024]), drained: make(chan struct{}), ctx: ctx}
	why := errors.New("the administrator changed their mind")
	go func() {
		<-r.drained
		cancel(why)
	}()
	if _, err := s.Import(ctx, "a", r, ImportOptions{}); !errors.Is(err, why) {
		t.Errorf("Import = %v; want %v", err, why)
	}
	if got := debris(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
	broken := errors.New("broken")
	_, err := s.Import(t.Context(), "a", io.MultiReader(bytes.NewReader(archive[:1024]), iotest.ErrReader(broken)), ImportOptions{})
	if !errors.Is(err, broken) || debris(t, s) != nil {
		t.Errorf("Import = %v, left behind %q; want %v and nothing", err, debris(t, s), broken)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil || len(data) != 0 {
		t.Errorf("processes %q are left, %v", data, err)
	}
}

// TestImportDoesNotBlock: while an archive comes in slowly, other images are
// read, imported and removed, and a new store does not take the staging
// directory away.
func TestImportDoesNotBlock(t *testing.T) {
	s := importStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := &slow{r: bytes.NewReader(nil), drained: make(chan struct{}), ctx: ctx}
	done := make(chan error)
	go func() {
		_, err := s.Import(ctx, "slow", r, ImportOptions{})
		done <- err
	}()
	<-r.drained
	other := reopen(t, s)
	mustImport(t, other, "quick", tarball(t, tar.Header{Name: "x"}))
	mustMounts(t, other, "quick")
	mustMounts(t, other, "host")
	if err := other.Remove(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(s.path(dirStaging)); err != nil || len(entries) != 1 {
		t.Errorf("%d staging directories, %v; want the slow one", len(entries), err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Import = %v; want that it was cancelled", err)
	}
}

// TestImportDiskFull: an archive that is too large for the disk leaves nothing,
// and a smaller one is imported afterwards.
func TestImportDiskFull(t *testing.T) {
	s := importStore(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "size=2m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	cfg := s.cfg
	cfg.Dir = filepath.Join(disk, "images")
	s = testStore(t, cfg)
	var large bytes.Buffer
	w := tar.NewWriter(&large)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: 3 << 20, Mode: 0o644})
	_, err2 := w.Write(make([]byte, 3<<20))
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = s.Import(t.Context(), "a", &large, ImportOptions{})
	checkError(t, err, "no space left on device")
	if got := debris(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
	mustImport(t, s, "a", tarball(t, tar.Header{Name: "small"}))
	if got := content(t, s, "a"); got != "small" {
		t.Errorf("a has %q", got)
	}
}

func TestImportConcurrently(t *testing.T) {
	s := importStore(t)
	stores := []*Store{s, reopen(t, s)}
	same := tarball(t, tar.Header{Name: "same"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			store, name, archive := stores[i%2], "same", same
			if i >= 4 {
				name = fmt.Sprintf("other:%d", i)
				archive = tarball(t, tar.Header{Name: name})
			}
			if _, err := store.Import(t.Context(), name, bytes.NewReader(archive), ImportOptions{}); err != nil {
				t.Errorf("Import(%s) = %v", name, err)
			}
		})
	}
	wg.Wait()
	images, err := s.List(t.Context())
	if err != nil || len(images) != 1+1+4 {
		t.Errorf("List = %d images, %v; want 6", len(images), err)
	}
	if got := stray(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
}

func TestImportProgress(t *testing.T) {
	s := importStore(t)
	archive := tarball(t, tar.Header{Name: "x"}, tar.Header{Typeflag: tar.TypeChar, Name: "null"})
	var all []Progress
	_, err := s.Import(t.Context(), "a", bytes.NewReader(archive), ImportOptions{Progress: func(p Progress) { all = append(all, p) }})
	if err != nil {
		t.Fatal(err)
	}
	want := Progress{BytesRead: int64(len(archive)), Entries: 2, Devices: 1}
	if diff := cmp.Diff(want, all[len(all)-1]); diff != "" {
		t.Errorf("last Progress (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(all, func(a, b Progress) int { return int(a.BytesRead - b.BytesRead) }) {
		t.Errorf("Progress goes back: %v", all)
	}
}

// TestRemoveInUse: an overlay keeps a removed layer whole, even what nobody
// has looked up yet. The twin deletes the layer's files, as an image store
// must not, and they are gone from the mount.
func TestRemoveInUse(t *testing.T) {
	s := importStore(t)
	for _, name := range []string{"removed", "deleted"} {
		t.Run(name, func(t *testing.T) {
			mustImport(t, s, name, tarball(t, tar.Header{Name: "d/file"}, tar.Header{Name: "seen"}, tar.Header{Name: name}))
			layer := mustMounts(t, s, name).Layers[0]
			merged := overlay(t, layer)
			if _, err := os.ReadFile(filepath.Join(merged, "seen")); err != nil {
				t.Fatal(err)
			}
			if name == "removed" {
				if err := s.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				if err := s.Collect(t.Context(), inUse(layer)); err != nil {
					t.Fatal(err)
				}
				reopen(t, s)
			} else if err := os.RemoveAll(layer); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(merged, "d/file"))
			if whole := err == nil && string(data) == "d/file"; whole != (name == "removed") {
				t.Errorf("d/file = %q, %v", data, err)
			}
			if _, err := os.Lstat(layer); err == nil {
				t.Error("the layer is where it was")
			}
		})
	}
}

// overlay mounts a layer as the sandbox does, with an upper layer, and returns
// where.
func overlay(t *testing.T, lower string) string {
	t.Helper()
	top := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		mustMkdir(t, filepath.Join(top, d), 0o755)
	}
	merged := filepath.Join(top, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, top, top)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		testneed.Unmet(t, "needs overlayfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	return merged
}

// TestImportDebian imports a real distribution and compares it, entry by
// entry, with what the archive says.
func TestImportDebian(t *testing.T) {
	path := testroot.DebianRootfs(t)
	s := importStore(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	image, err := s.Import(t.Context(), "debian:12", f, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes in %v", image.SizeBytes, time.Since(began))
	dir := mustMounts(t, s, "debian:12").Layers[0]
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	entries, devices := compareTree(t, dir, tar.NewReader(z))
	if entries < 5000 || devices == 0 {
		t.Errorf("%d entries and %d devices; want a distribution's", entries, devices)
	}
	if got := debris(t, s); got != nil {
		t.Errorf("left behind: %q", got)
	}
}

// compareTree compares a directory with an archive without duplicates.
func compareTree(t *testing.T, dir string, tr *tar.Reader) (entries, devices int) {
	t.Helper()
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries, devices
		}
		if err != nil {
			t.Fatal(err)
		}
		entries++
		path := filepath.Join(dir, hdr.Name)
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
			if devices++; !errors.Is(err, unix.ENOENT) {
				t.Errorf("%s is there", hdr.Name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", hdr.Name, err)
			continue
		}
		if int(st.Uid) != hdr.Uid || int(st.Gid) != hdr.Gid || st.Mtim.Sec != hdr.ModTime.Unix() ||
			hdr.Typeflag != tar.TypeSymlink && int64(st.Mode&0o7777) != hdr.Mode {
			t.Errorf("%s is %o %d:%d %d; want %o %d:%d %d", hdr.Name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, hdr.Mode, hdr.Uid, hdr.Gid, hdr.ModTime.Unix())
		}
		switch hdr.Typeflag {
		case tar.TypeSymlink:
			if target, err := os.Readlink(path); err != nil || target != hdr.Linkname {
				t.Errorf("%s leads to %q, %v; want %q", hdr.Name, target, err, hdr.Linkname)
			}
		case tar.TypeLink:
			var target unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, hdr.Linkname), &target); err != nil || target.Ino != st.Ino {
				t.Errorf("%s is no hard link to %s: %v", hdr.Name, hdr.Linkname, err)
			}
		case tar.TypeReg:
			want, got := sha256.New(), sha256.New()
			f, err := os.Open(path)
			if err == nil {
				_, err = io.Copy(got, f)
				f.Close()
			}
			if _, err2 := io.Copy(want, tr); errors.Join(err, err2) != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Errorf("%s has other content: %v", hdr.Name, errors.Join(err, err2))
			}
		}
	}
}
