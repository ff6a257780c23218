package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

func TestForgetIdentity(t *testing.T) {
	upper, outside := t.TempDir(), t.TempDir()
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	if err := forgetIdentity(upper); err != nil {
		t.Errorf("of an empty layer: %v", err)
	}
	etc := filepath.Join(upper, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"passwd", "group", "hosts", "profile"} {
		write(filepath.Join(etc, name))
	}
	write(filepath.Join(outside, "passwd"))
	if err := os.Symlink(filepath.Join(outside, "passwd"), filepath.Join(etc, "hostname")); err != nil {
		t.Fatal(err)
	}
	if err := forgetIdentity(upper); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"passwd", "group", "hosts", "hostname"} {
		if exists(filepath.Join(etc, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	if !exists(filepath.Join(etc, "profile")) || !exists(filepath.Join(outside, "passwd")) {
		t.Error("more was removed than the account files of the layer")
	}
	// A layer whose etc leads elsewhere.
	if err := os.RemoveAll(etc); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, etc); err != nil {
		t.Fatal(err)
	}
	if err := forgetIdentity(upper); err != nil {
		t.Errorf("of a layer whose etc is a link: %v", err)
	}
	if !exists(filepath.Join(outside, "passwd")) {
		t.Error("the link was followed: a file outside the layer is gone")
	}
}
