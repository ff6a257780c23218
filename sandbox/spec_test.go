package sandbox

import (
	"reflect"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
)

func fullSpec() Spec {
	return Spec{
		User: User{
			Name: "alice", UID: 1000, GID: 100, Shell: "/bin/bash",
			Groups: []Group{{"users", 100}, {"lab", 2000}},
		},
		Hostname: "alice-host", Image: "host", ImageID: "sha256:1", Layers: []string{"/l"}, Home: HomePrivate,
		HomePath:   "/home/alice",
		Limits:     cgroup.Limits{MemoryBytes: 1 << 30, SwapBytes: 1, CPUWeight: 100, CPUQuotaMicros: 1000, CPUPeriodMicros: 2000, Pids: 5},
		BestEffort: true, PtyMax: 64,
	}
}

// TestDigestSeesEveryField changes each field by reflection, so that one added
// later is not forgotten: a user's new limits would never come into force.
func TestDigestSeesEveryField(t *testing.T) {
	left := map[string]bool{"Layers": true, "Binds": true} // ImageID stands for them
	var walk func(path string, v reflect.Value, s *Spec)
	base := fullSpec()
	want := base.digest()
	walk = func(path string, v reflect.Value, s *Spec) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i), s)
			}
			return
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Uint32, reflect.Uint64:
			v.SetUint(v.Uint() + 1)
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Slice:
			if !left[path] {
				walkSlice(t, path, v, s, want, walk)
			}
			return
		default:
			t.Fatalf("%s: a %v, which this test cannot change", path, v.Kind())
		}
		if s.digest() == want {
			t.Errorf("%s makes no difference to the digest", path)
		}
		*s = fullSpec()
	}
	s := fullSpec()
	walk("", reflect.ValueOf(&s).Elem(), &s)
}

// walkSlice takes an element away, doubles one and changes each.
func walkSlice(t *testing.T, path string, v reflect.Value, s *Spec, want string, walk func(string, reflect.Value, *Spec)) {
	full := v.Len()
	for _, n := range []int{full - 1, 0} {
		v.SetLen(n)
		if s.digest() == want {
			t.Errorf("%s cut to %d makes no difference to the digest", path, n)
		}
		*s = fullSpec()
	}
	for i := range full {
		for f := range v.Index(i).NumField() {
			walk(path+"."+v.Index(i).Type().Field(f).Name, v.Index(i).Field(f), s)
		}
	}
}

// TestDigestKeepsFieldsApart moves a byte from one field to the next.
func TestDigestKeepsFieldsApart(t *testing.T) {
	a, b := fullSpec(), fullSpec()
	a.Image, a.ImageID = "ab", "c"
	b.Image, b.ImageID = "a", "bc"
	if a.digest() == b.digest() {
		t.Error("image ab of c and image a of bc have one digest")
	}
	a, b = fullSpec(), fullSpec()
	a.User.Groups = []Group{{"a", 12}, {"b", 3}}
	b.User.Groups = []Group{{"a", 1}, {"b", 23}}
	if a.digest() == b.digest() {
		t.Error("groups 12, 3 and 1, 23 have one digest")
	}
	a, b = fullSpec(), fullSpec()
	a.BestEffort, a.User.Groups = true, []Group{{"", 7}}
	b.BestEffort, b.User.Groups = false, []Group{{"", 1}, {"", 7}}
	if a.digest() == b.digest() {
		t.Error("best effort passes for a group")
	}
	a, b = fullSpec(), fullSpec()
	a.Layers, a.Binds = []string{"/elsewhere"}, nil
	if a.digest() != b.digest() {
		t.Error("layers that moved make another container")
	}
}

func TestOutdated(t *testing.T) {
	s := fullSpec()
	c := &Container{record: record{Digest: s.digest()}}
	if c.Outdated(&s) {
		t.Error("a container is outdated by its own spec")
	}
	s.Limits.Pids++
	if !c.Outdated(&s) {
		t.Error("a container with another limit is not outdated")
	}
}
