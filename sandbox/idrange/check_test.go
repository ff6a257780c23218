package idrange

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// hostFiles writes account files; a name that is missing does not exist.
func hostFiles(t *testing.T, files map[string]string) HostFiles {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return HostFiles{
		Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group"),
		Subuid: filepath.Join(dir, "subuid"), Subgid: filepath.Join(dir, "subgid"),
	}
}

// region is 1879048192-1879244799, three ranges.
var smallRegion = Region{First: 0x7000_0000, Count: 3}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		region Region
		files  map[string]string
		want   []Conflict
	}{
		{
			name: "a usual host", region: DefaultRegion(),
			files: map[string]string{
				"passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
				"group":  "root:x:0:\nsudo:x:27:alice\n",
				"subuid": "alice:100000:65536\nbob:165536:65536\n",
				"subgid": "alice:100000:65536\n",
			},
		},
		{name: "no files at all", region: DefaultRegion()},
		{
			name: "each file", region: smallRegion,
			files: map[string]string{
				"passwd": "root:x:0:0::/:\nldap1:SECRETHASH:1879048192:100::/:\nldap2:x:5:1879244799::/:\nok:x:1879244800:1879048191::/:\n",
				"group":  "# comment:x:1879048192:\ng:x:1879100000:\n",
				"subuid": "a:1879000000:65536\n\nb:1879244799:1\nc:1879244800:65536\nd:1878982656:65536\n",
				"subgid": "a:0:4294967295\n",
			},
			want: []Conflict{
				{Source: "passwd", Line: 2, Text: "ldap1", First: 1879048192, Last: 1879048192},
				{Source: "passwd", Line: 3, Text: "ldap2", First: 1879244799, Last: 1879244799},
				{Source: "group", Line: 2, Text: "g", First: 1879100000, Last: 1879100000},
				{Source: "subuid", Line: 1, Text: "a", First: 1879000000, Last: 1879065535},
				{Source: "subuid", Line: 3, Text: "b", First: 1879244799, Last: 1879244799},
				{Source: "subgid", Line: 1, Text: "a", First: 0, Last: 4294967294},
			},
		},
		{
			name: "lines that say nothing", region: smallRegion,
			files: map[string]string{
				"passwd": "x\nx:x\nx:x:y:z\n+::::::\n:::\n",
				"group":  "x:x:\n\n",
				"subuid": "a:1879048192\na:1879048192:0\na:-1:5\na:b:c\na:1879048192:1:1\n",
				"subgid": "a:99999999999999999999:1\n",
			},
		},
		{
			name: "systemd's own", region: Region{First: 1 << 20, Count: 1},
			want: []Conflict{{Source: "systemd", Text: "container uid ranges (systemd-nspawn -U)", First: 524288, Last: 1879048191}},
		},
		{
			name: "systemd's foreign ids", region: Region{First: 0x7FFE_0000, Count: 1},
			want: []Conflict{{Source: "systemd", Text: "foreign images", First: 2147352576, Last: 2147418111}},
		},
	}
	for _, tt := range tests {
		files := hostFiles(t, tt.files)
		err := tt.region.Check(files)
		var conflicts *Conflicts
		if errors.As(err, &conflicts) != (len(tt.want) > 0) {
			t.Errorf("%s: Check = %v; want %d conflicts", tt.name, err, len(tt.want))
			continue
		}
		var got []Conflict
		if conflicts != nil {
			got = conflicts.Found
		}
		for i := range got {
			got[i].Source = filepath.Base(got[i].Source)
			if !strings.Contains(got[i].Remedy, tt.region.String()) {
				t.Errorf("%s: remedy %q does not name the region", tt.name, got[i].Remedy)
			}
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Conflict{}, "Remedy")); diff != "" {
			t.Errorf("%s: Check: -want +got:\n%s", tt.name, diff)
		}
	}
}

// The message names the line, the ids and what to do, and no more of the line.
func TestCheckMessage(t *testing.T) {
	files := hostFiles(t, map[string]string{"passwd": "root:x:0:0::/:\nbad:SECRETHASH:1879048200:100::/:\n"})
	table := mustOpen(t, filepath.Join(t.TempDir(), "ids"), smallRegion)
	err := table.Check(files)
	want := "id region 1879048192-1879244799 of Carrel is not free: " + files.Passwd +
		`:2: "bad" has ids 1879048200-1879048200: give the account ids outside 1879048192-1879244799, ` +
		"or, before the first user has a range, choose another region in carrel.toml"
	if err == nil || err.Error() != want {
		t.Errorf("Check = %v; want %s", err, want)
	}
}

func TestCheckUnreadable(t *testing.T) {
	files := hostFiles(t, nil)
	files.Group = t.TempDir() // reading a directory fails for root too
	var conflicts *Conflicts
	if err := smallRegion.Check(files); err == nil || errors.As(err, &conflicts) {
		t.Errorf("Check with an unreadable file = %v; want that error", err)
	}
	if err := (Region{}).Check(HostFiles{}); err == nil {
		t.Error("Check of no region = nil; want an error")
	}
}

func TestHostFilesDefaults(t *testing.T) {
	want := HostFiles{"/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid"}
	if got := (HostFiles{}).withDefaults(); got != want {
		t.Errorf("defaults = %v; want %v", got, want)
	}
}
