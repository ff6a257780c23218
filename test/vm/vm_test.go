//go:build vm

package vm

import (
	"bytes"
	"context"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/internal/testneed"
)

//go:embed guest.sh
var guest []byte

// bootTime bounds the whole life of the machine. It takes a minute or two on
// two cores without KVM.
const bootTime = 10 * time.Minute

func TestDebianKernelCgroupV2(t *testing.T) {
	testneed.Root(t)
	for _, tool := range []string{"qemu-system-x86_64", "mmdebstrap", "mke2fs", "make"} {
		testneed.Tool(t, tool)
	}
	root := system(t)
	run(t, "make", "-C", "../..", "install", "DESTDIR="+root)
	if err := os.WriteFile(filepath.Join(root, "guest.sh"), guest, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 3<<30); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", root, disk)
	out := boot(t, root, disk)
	checks := regexp.MustCompile(`(?m)^(ok|not ok) (.*?)\r?$`).FindAllStringSubmatch(out, -1)
	for _, c := range checks {
		t.Log(c[1], c[2])
		if c[1] != "ok" {
			t.Error(c[2])
		}
	}
	if want := strings.Count(string(guest), "\ncheck "); len(checks) != want || !strings.Contains(out, "\nend") {
		t.Errorf("%d checks reported; want %d and the end", len(checks), want)
	}
	if t.Failed() {
		t.Logf("the machine said:\n%s", out)
	}
}

// system returns a fresh copy of a Debian root file system with a kernel. The
// original is kept between runs.
func system(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(cache, "carrel-test", "vm-bookworm.tar")
	if _, err := os.Stat(tarball); err != nil {
		if err := os.MkdirAll(filepath.Dir(tarball), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "mmdebstrap", "--format=tar", "--variant=minbase", "--include="+strings.Join([]string{
			"linux-image-cloud-amd64", "initramfs-tools", "udev", "kmod", "procps", "passwd", "iproute2", "openssh-server", "openssh-client",
		}, ","), "bookworm", tarball+".new")
		if err := os.Rename(tarball+".new", tarball); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-x", "-p", "-C", root, "-f", tarball)
	return root
}

func boot(t *testing.T, root, disk string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	one := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("boot/%s: %q, %v; want one file", pattern, found, err)
		}
		return found[0]
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", one("vmlinuz-*"), "-initrd", one("initrd.img-*"),
		"-append", "root=/dev/vda rw console=ttyS0 quiet init=/guest.sh", "-drive", "file="+disk+",format=raw,if=virtio")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("virtual machine: %v", err)
	}
	return out.String()
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
