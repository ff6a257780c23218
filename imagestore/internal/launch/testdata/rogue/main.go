// Command rogue is a worker that an archive has taken over: it behaves as its
// argument says.
package main

import (
	"bytes"
	"io"
	"os"
	"time"

	"github.com/carrel-sh/carrel/imagestore/internal/wire"
)

func main() {
	records := os.NewFile(4, "records")
	done := wire.Append(nil, wire.Record{Kind: wire.KindDone, Result: wire.Result{Entries: 7}})
	path := wire.Append(nil, wire.Record{Kind: wire.KindDevice, Path: "x"})
	switch os.Args[1] {
	case "good":
		n, _ := io.Copy(io.Discard, os.Stdin)
		_, _ = records.Write(wire.Append(path, wire.Record{Kind: wire.KindDone, Result: wire.Result{SizeBytes: n}}))
	case "fails":
		_, _ = records.Write(wire.Append(nil, wire.Record{Kind: wire.KindFailed, Text: "entry \x1b[2J\u009b\n\xff: no"}))
	case "silent":
	case "exits":
		os.Exit(3)
	case "panics":
		panic("of its own")
	case "garbage":
		_, _ = records.Write(bytes.Repeat([]byte{0xff}, 1000))
	case "two results":
		_, _ = records.Write(append(done, done...))
	case "hangs":
		time.Sleep(time.Hour)
	case "done and hangs":
		_, _ = records.Write(done)
		time.Sleep(time.Hour)
	case "done, closed, and hangs":
		_, _ = records.Write(done)
		records.Close()
		time.Sleep(time.Hour)
	case "done without reading":
		_, _ = records.Write(done)
	case "floods":
		for {
			if _, err := records.Write(path); err != nil {
				return
			}
		}
	case "writes much to stderr":
		for range 10000 {
			_, _ = os.Stderr.WriteString("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n")
		}
	}
}
