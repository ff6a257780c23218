package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
)

// A grid is a table for people: a line of headings, then rows.
type grid struct{ rows [][]string }

func newGrid(headings ...string) *grid { return &grid{rows: [][]string{headings}} }

// add appends a row. Empty cells become "-", so that columns stay columns for
// awk; what is not printable becomes "?".
func (g *grid) add(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		row[i] = clean(cell)
	}
	g.rows = append(g.rows, row)
}

// write prints the table.
func (g *grid) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range g.rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// writeJSON prints v, indented. Whatever is not plain printable ASCII is
// escaped: encoding/json leaves DEL, C1 controls and marks that reorder text.
func writeJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r == '\n' || r < unicode.MaxASCII && unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// size returns bytes for people, to three digits: "1.95GiB".
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 999.5 && i < len(units)-1 {
		f /= 1024
		i++
	}
	digits := 0
	switch {
	case f < 9.995:
		digits = 2
	case f < 99.95:
		digits = 1
	}
	return fmt.Sprintf("%.*f%ciB", digits, f, units[i])
}

// of returns "used/limit", or used alone without a limit.
func of(used, limit string) string {
	if limit == "" {
		return used
	}
	return used + "/" + limit
}

// age returns a duration in its two largest units: "3d4h".
func age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}
