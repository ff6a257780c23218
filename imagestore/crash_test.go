package imagestore

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The variables by which TestCrash tells its child what to do.
const (
	crashStep   = "CARREL_TEST_CRASH_STEP"
	crashDir    = "CARREL_TEST_CRASH_DIR"
	crashUnpack = "CARREL_TEST_CRASH_UNPACK"
)

// crashArchives are what the image has before and after.
func crashArchives(t testing.TB) (before, after []byte) {
	return tarball(t, tar.Header{Name: "before"}), tarball(t, tar.Header{Name: "after"}, tar.Header{Name: "d/.wh..wh..opq"})
}

// TestCrashChild is the child: it imports, or removes, and is killed at a
// step.
func TestCrashChild(t *testing.T) {
	step := os.Getenv(crashStep)
	if step == "" {
		return // nothing to test: it is TestCrash that runs it
	}
	s := testStore(t, Config{Dir: os.Getenv(crashDir), UnpackPath: os.Getenv(crashUnpack), WorkerFirstID: testWorkerID})
	remove := false
	s.step = func(name string) {
		if remove {
			name = "remove: " + name
		}
		if name == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, after := crashArchives(t)
	mustImport(t, s, "a", after)
	remove = true
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

// TestCrash kills an import and a removal between any two steps. What is left
// must be the image of before, or of after, or none once it is being removed,
// and the next Open, import and removal find a store in order.
func TestCrash(t *testing.T) {
	const before, after, none = "before", "after", ""
	tests := []struct{ step, want string }{
		{"staged", before}, {"unpacked", before}, {"synced", before}, {"renamed", before}, {"layer recorded", before}, {"config written", before},
		{"named", after}, {"layerinfo swept", after}, {"layers swept", after}, {"blobs/sha256 swept", after},
		{"remove: ref removed", none}, {"remove: layerinfo swept", none}, {"remove: layers swept", none}, {"remove: blobs/sha256 swept", none},
		{"no step", none},
	}
	s := importStore(t)
	for _, tt := range tests {
		t.Run(tt.step, func(t *testing.T) {
			s := testStore(t, Config{UnpackPath: s.cfg.UnpackPath, WorkerFirstID: testWorkerID})
			first, second := crashArchives(t)
			mustImport(t, s, "a", first)
			other := mustImport(t, s, "other", tarball(t, tar.Header{Name: "other"}))
			killed := runCrash(t, s, tt.step)
			if killed == (tt.step == "no step") {
				t.Fatalf("the child was killed: %t", killed)
			}

			s = reopen(t, s)
			if got := content(t, s, "a"); got != tt.want {
				t.Errorf("a has %q; want %q", got, tt.want)
			}
			checkOrder(t, s)
			mustImport(t, s, "a", second)
			if got := content(t, s, "a"); got != after {
				t.Errorf("imported again, a has %q; want %q", got, after)
			}
			if m := mustMounts(t, s, "other"); m.ImageID != other.ID || content(t, s, "other") != "other" {
				t.Errorf("the other image is %s; want %s", m.ImageID, other.ID)
			}
			if err := s.Remove(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			if err := s.Collect(t.Context(), inUse()); err != nil || debris(t, s) != nil {
				t.Errorf("Collect = %v, left behind %q", err, debris(t, s))
			}
		})
	}
}

// runCrash runs the child and reports whether it was killed.
func runCrash(t *testing.T, s *Store, step string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashStep+"="+step, crashDir+"="+s.cfg.Dir, crashUnpack+"="+s.cfg.UnpackPath)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return false
}

// content returns which of the known files the image has, "" if there is no
// image. Any other error fails the test.
func content(t *testing.T, s *Store, name string) string {
	t.Helper()
	m, err := s.Mounts(t.Context(), name)
	if errors.Is(err, ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	for file := range listTree(t, m.Layers[0]) {
		if data, err := os.ReadFile(m.Layers[0] + "/" + file); err == nil && bytes.Equal(data, []byte(file)) {
			return file
		}
	}
	t.Fatalf("image %s has no content", name)
	return ""
}

// checkOrder holds that every reference leads to whole layers with records,
// and that nothing else is there but what waits in the trash.
func checkOrder(t *testing.T, s *Store) {
	t.Helper()
	recs, err := s.readRefs()
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		for _, d := range rec.Layers {
			var layer layerRecord
			if err := readRecord(kindLayer, s.path(dirLayerInfo, d.hex()), &layer); err != nil || layer.ChainID != d {
				t.Errorf("layer %s of %s: record %v, %v", d, rec.Name, layer, err)
			}
		}
		config, err := os.ReadFile(s.path(dirBlobs, rec.ID.hex()))
		if err != nil || digestBytes(config) != rec.ID {
			t.Errorf("configuration of %s: %v, digest %s; want %s", rec.Name, err, digestBytes(config), rec.ID)
		}
	}
	if got := stray(t, s); got != nil {
		t.Errorf("stray: %q", got)
	}
	staging, err := os.ReadDir(s.path(dirStaging))
	if diff := cmp.Diff(0, len(staging)); err != nil || diff != "" {
		t.Errorf("staging directories (-want +got), %v:\n%s", err, diff)
	}
}
