package main

import "testing"

func TestOwnPath(t *testing.T) {
	if !ownPath("/proc/self/exe") {
		t.Error("ownPath of ourselves = false")
	}
	for _, other := range []string{"/bin/sh", "carrelsh", "", "/nowhere", "/proc/self/exe -c id", "/proc/self/exe; id"} {
		if ownPath(other) {
			t.Errorf("ownPath(%q) = true", other)
		}
	}
}
