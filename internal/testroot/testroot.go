// Package testroot makes root file systems of a real distribution for tests.
package testroot

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// CacheEnv names a directory where what took long to make is kept. Without it
// that is carrel-test in the user's cache directory.
const CacheEnv = "CARREL_TEST_CACHE"

const (
	suite   = "bookworm"
	variant = "minbase"
)

// DebianRootfs returns the path of a tar archive, compressed with zstd, of a
// minimal Debian. It is made once, by mmdebstrap(1), which takes a minute and
// the network; packages tested at the same time wait for each other.
func DebianRootfs(t testing.TB) string {
	t.Helper()
	testneed.Root(t)
	dir := cacheDir(t)
	path := filepath.Join(dir, suite+"-"+variant+"-"+runtime.GOARCH+".tar.zst")
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		debootstrap(t, path)
	} else if err != nil {
		t.Fatal(err)
	}
	return path
}

func cacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			testneed.Unmet(t, "needs a cache directory, or %s: %v", CacheEnv, err)
		}
		dir = filepath.Join(cache, "carrel-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// debootstrap makes the archive under another name, so that a half one is
// never found.
func debootstrap(t testing.TB, path string) {
	t.Helper()
	program := testneed.Tool(t, "mmdebstrap")
	temp := filepath.Join(filepath.Dir(path), "new-"+filepath.Base(path)) // the suffix tells the format
	defer os.Remove(temp)
	out, err := exec.CommandContext(t.Context(), program, "--variant="+variant, suite, temp).CombinedOutput()
	if err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}
