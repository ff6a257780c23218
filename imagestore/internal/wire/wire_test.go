package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var records = []Record{
	{Kind: KindProgress, Entries: 1 << 40},
	{Kind: KindOpaque, Path: ""},
	{Kind: KindOpaque, Path: strings.Repeat("p", maxPath)},
	{Kind: KindDevice, Path: "dev/null"},
	{Kind: KindDone, Result: Result{DiffID: [32]byte{1, 31: 2}, SizeBytes: 3, Entries: 4, Devices: 5, DroppedXattrs: 1<<63 - 1}},
}

func encode(recs ...Record) []byte {
	var buf []byte
	for _, r := range recs {
		buf = Append(buf, r)
	}
	return buf
}

func decodeAll(data []byte) ([]Record, error) {
	d := NewDecoder(bytes.NewReader(data))
	var recs []Record
	for {
		rec, err := d.Next()
		if errors.Is(err, io.EOF) {
			return recs, nil
		}
		if err != nil {
			return recs, err
		}
		recs = append(recs, rec)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, last := range []Record{records[4], {Kind: KindFailed, Text: "entry \"x\": \x1b[2J"}} {
		want := append(append([]Record{}, records[:4]...), last)
		got, err := decodeAll(encode(want...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	}
}

func TestViolations(t *testing.T) {
	done := encode(records[4])
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"good", done, nil},
		{"nothing", nil, io.ErrUnexpectedEOF},
		{"no last record", encode(records[0]), io.ErrUnexpectedEOF},
		{"cut in the head", done[:2], io.ErrUnexpectedEOF},
		{"cut in the payload", done[:20], io.ErrUnexpectedEOF},
		{"two last records", append(encode(records[4]), done...), errViolation},
		{"progress after the last", append(encode(records[4]), encode(records[0])...), errViolation},
		{"trailing byte", append(encode(records[4]), 0), io.ErrUnexpectedEOF},
		{"unknown kind", append([]byte{'X', 0, 0}, done...), errViolation},
		{"kind zero", append([]byte{0, 0, 0}, done...), errViolation},
		{"long path", append(append([]byte{'O', 0x10, 0x00}, make([]byte, 4096)...), done...), errViolation},
		{"longest path", append(append([]byte{'O', 0x0f, 0xff}, make([]byte, 4095)...), done...), nil},
		{"short progress", append([]byte{'P', 0, 7, 0, 0, 0, 0, 0, 0, 0}, done...), errViolation},
		{"empty failure", []byte{'F', 0, 0}, errViolation},
		{"negative progress", append([]byte{'P', 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 0}, done...), errViolation},
		{"negative size", append(append([]byte{}, done[:3+32]...), bytes.Repeat([]byte{0xff}, 32)...), errViolation},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decodeAll(tt.in); !errors.Is(err, tt.want) {
				t.Errorf("decode = %v; want %v", err, tt.want)
			}
		})
	}
}

func TestAppendCuts(t *testing.T) {
	recs, err := decodeAll(encode(Record{Kind: KindDevice, Path: strings.Repeat("x", 70000)}, Record{Kind: KindFailed, Text: strings.Repeat("y", 70000)}))
	if err != nil || len(recs[0].Path) != maxPath || len(recs[1].Text) != maxText {
		t.Errorf("decode = %d records, %v; want both cut", len(recs), err)
	}
}

// FuzzDecoder holds that what is accepted is exactly what would be encoded,
// and has one last record at its end.
func FuzzDecoder(f *testing.F) {
	f.Add(encode(records...))
	f.Add(encode(Record{Kind: KindFailed, Text: "x"}))
	f.Add([]byte{'P', 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		recs, err := decodeAll(data)
		if err != nil {
			return
		}
		if again := encode(recs...); !bytes.Equal(again, data) {
			t.Errorf("decoded and encoded again: %x; want %x", again, data)
		}
		for i, r := range recs {
			if last := r.Kind == KindDone || r.Kind == KindFailed; last != (i == len(recs)-1) {
				t.Errorf("record %d of %d has kind %q", i, len(recs), r.Kind)
			}
		}
	})
}
