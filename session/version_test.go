package session

import "testing"

// A frame of every version that is spoken is taken, and of no other.
func TestVersions(t *testing.T) {
	for version := range 256 {
		frame := Ping()
		frame[0] = uint8(version)
		spoken := version >= Oldest && version <= Version
		if got := KindOf(frame) == KindPing; got != spoken {
			t.Errorf("version %d: taken %v; want %v", version, got, spoken)
		}
		// Nothing is written in a version that is not spoken, whoever asks for it.
		want := uint8(Version)
		if spoken {
			want = uint8(version)
		}
		if got := VersionOf(In(uint8(version), Ping())); got != want {
			t.Errorf("In(%d) has version %d; want %d", version, got, want)
		}
	}
	if Version-Oldest > 1 || Oldest < 1 {
		t.Errorf("versions %d to %d are spoken; want two at most", Oldest, Version)
	}
}
