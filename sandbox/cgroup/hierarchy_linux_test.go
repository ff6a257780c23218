package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

func TestParseMountinfo(t *testing.T) {
	const v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	const split = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,release_agent=/lib/systemd/agent,name=systemd
`
	const unified = "35 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	v1 := map[string]string{
		"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
		"memory": "/sys/fs/cgroup/memory", "name=systemd": "/sys/fs/cgroup/systemd",
	}
	none := map[string]string{}
	tests := []struct {
		name, info, mode string
		want             Hierarchy
	}{
		{"v2", v2, "v2", Hierarchy{Mode: leaf.V2, Unified: "/sys/fs/cgroup", V1: none}},
		{"v1", split, "v1", Hierarchy{Mode: leaf.V1, V1: v1}},
		{"hybrid", split + unified, "hybrid", Hierarchy{Mode: leaf.V1, V1: v1, Unified: "/sys/fs/cgroup/unified"}},
		{
			"v2 with a named v1 hierarchy", v2 + "34 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd\n", "v2",
			Hierarchy{Mode: leaf.V2, Unified: "/sys/fs/cgroup", V1: map[string]string{"name=systemd": "/sys/fs/cgroup/systemd"}},
		},
		{
			"a copy elsewhere comes first", "29 23 0:26 / /srv/a\\040b rw - cgroup2 cgroup2 rw\n" + v2, "v2",
			Hierarchy{Mode: leaf.V2, Unified: "/sys/fs/cgroup", V1: none},
		},
		{
			"escaped, and only there", "29 23 0:26 / /srv/a\\040b\\134 rw - cgroup2 cgroup2 rw\n", "v2",
			Hierarchy{Mode: leaf.V2, Unified: `/srv/a b\`, V1: none},
		},
		{"a line that is none", "garbage\n1 2 - cgroup2\n" + v2, "v2", Hierarchy{Mode: leaf.V2, Unified: "/sys/fs/cgroup", V1: none}},
	}
	for _, tt := range tests {
		got, err := parseMountinfo(tt.info)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: parseMountinfo: %v, -want +got:\n%s", tt.name, err, diff)
		}
		if got.String() != tt.mode {
			t.Errorf("%s: mode %s; want %s", tt.name, got, tt.mode)
		}
	}
	if h, err := parseMountinfo("31 23 0:28 / / rw - ext4 /dev/vda rw\n"); err == nil {
		t.Errorf("parseMountinfo without cgroups = %v; want an error", h)
	}
}

func TestMounts(t *testing.T) {
	h := Hierarchy{Mode: leaf.V1, Unified: "/u", V1: map[string]string{
		"cpu": "/c", "cpuacct": "/c", "memory": "/m", "devices": "/d", "name=systemd": "/s",
	}}
	if diff := cmp.Diff([]string{"/m", "/c"}, h.boxMounts()); diff != "" {
		t.Errorf("boxMounts: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/c", "/d", "/m", "/s", "/u"}, h.allMounts()); diff != "" {
		t.Errorf("allMounts: -want +got:\n%s", diff)
	}
	v2 := Hierarchy{Mode: leaf.V2, Unified: "/u"}
	if diff := cmp.Diff([]string{"/u"}, v2.boxMounts()); diff != "" {
		t.Errorf("boxMounts of v2: -want +got:\n%s", diff)
	}
}

// Controllers mounted together are found through the links that systemd makes,
// and named when those are missing.
func TestUnusable(t *testing.T) {
	top := t.TempDir()
	both := filepath.Join(top, "cpu,cpuacct")
	if err := os.Mkdir(both, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("cpu,cpuacct", filepath.Join(top, "cpu")); err != nil {
		t.Fatal(err)
	}
	h := Hierarchy{Mode: leaf.V1, V1: map[string]string{"cpu": both, "cpuacct": both}}
	if got := h.unusable("cpu"); got != "" {
		t.Errorf("unusable(cpu) = %q; want none", got)
	}
	for controller, want := range map[string]string{"cpuacct": "not reachable", "pids": "no pids controller"} {
		if got := h.unusable(controller); !strings.Contains(got, want) {
			t.Errorf("unusable(%s) = %q; want %q in it", controller, got, want)
		}
	}
	if got := len(h.subsystems()); got != 1 {
		t.Errorf("%d subsystems; want cpu alone", got)
	}
}

func TestOwn(t *testing.T) {
	v1 := Hierarchy{Mode: leaf.V1, Unified: "/u", V1: map[string]string{"pids": "/p", "cpu": "/c"}}
	v2 := Hierarchy{Mode: leaf.V2, Unified: "/u"}
	tests := []struct {
		h          Hierarchy
		self, want string
	}{
		{v1, "8:pids:/a\n0::/b\n", "/p/a"},
		{v1, "9:rdma:/\n8:cpuacct,cpu:/x:y\n", "/c/x:y"},
		{v1, "0::/b\n", ""},
		{v2, "0::/b/c\n", "/u/b/c"},
		{v2, "0::/../b\n", ""},
		{v2, "garbage\n", ""},
	}
	for _, tt := range tests {
		if got, ok := tt.h.own(tt.self); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%v: own(%q) = %q, %v; want %q", tt.h, tt.self, got, ok, tt.want)
		}
	}
}
