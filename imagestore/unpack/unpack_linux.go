// Package unpack is the program carrel-unpack: the worker that applies one
// layer archive, whose every byte is a stranger's, for the image store.
//
// Its parent starts it as root of nothing but its own namespaces, see
// imagestore/internal/launch for the descriptors. Before it reads a byte of
// the archive it goes to jail, see imagestore/internal/jail. Then it applies
// the archive, see imagestore/internal/layer, and reports by the records of
// imagestore/internal/wire. It opens nothing by a path of the host, runs no
// program and keeps no state.
package unpack

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/carrel-sh/carrel/imagestore/internal/jail"
	"github.com/carrel-sh/carrel/imagestore/internal/layer"
	"github.com/carrel-sh/carrel/imagestore/internal/wire"
)

// Descriptors, besides 0, the archive.
const (
	fdRoot    = 3
	fdRecords = 4
	fdFirst   = 5 // nothing from here on
)

const (
	// memory holds the window of zstd twice and the names that package
	// layer remembers; the collector works harder from softMemory on.
	memory     = 1 << 30
	softMemory = 512 << 20
	// cpuSeconds is ten times what 32 GiB of gzip take.
	cpuSeconds = 3600
	// progressInterval is often enough to look alive.
	progressInterval = 100 * time.Millisecond
	// maxDeviceRecords bounds what is told about, not what is counted.
	maxDeviceRecords = 16
)

// Exit statuses. The parent looks at the records, people look at these.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs the worker with the arguments after the program's name and returns
// the exit status.
func Main(args []string) int {
	flags := flag.NewFlagSet("carrel-unpack", flag.ContinueOnError)
	maxBytes := flags.Int64("max-bytes", 0, "refuse archives with more `bytes` uncompressed")
	maxEntries := flags.Int64("max-entries", 0, "refuse archives with more `entries`")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if flags.NArg() != 0 || *maxBytes <= 0 || *maxEntries <= 0 {
		fmt.Fprintln(os.Stderr, "carrel-unpack: is started by carreld, not by hand; see carrel-unpack(8)")
		return exitUsage
	}
	// One thread computes; the runtime need not watch cgroup files.
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(softMemory)
	r := &reporter{w: bufio.NewWriter(os.NewFile(fdRecords, "records"))}
	root, err := jail.Enter(os.NewFile(fdRoot, "root"), fdFirst, jail.Limits{
		FileBytes: uint64(*maxBytes), MemoryBytes: memory, CPUSeconds: cpuSeconds,
	})
	if err != nil {
		return r.end(wire.Record{Kind: wire.KindFailed, Text: "enter the jail: " + err.Error()})
	}
	return r.end(apply(root, os.Stdin, r, layer.Options{MaxBytes: *maxBytes, MaxEntries: *maxEntries}))
}

// apply applies the archive and returns the last record.
func apply(root *os.File, archive io.Reader, r *reporter, opt layer.Options) wire.Record {
	opt.Progress = r.progress
	opt.Device = r.device
	res, err := layer.Apply(root, archive, opt)
	if err != nil {
		return wire.Record{Kind: wire.KindFailed, Text: err.Error()}
	}
	for _, dir := range res.Opaque {
		r.send(wire.Record{Kind: wire.KindOpaque, Path: dir})
	}
	return wire.Record{Kind: wire.KindDone, Result: wire.Result{
		DiffID: res.DiffID, SizeBytes: res.SizeBytes, Entries: res.Entries, Devices: res.Devices, DroppedXattrs: res.DroppedXattrs,
	}}
}

// reporter writes records. If the parent is gone, progress says so and the
// work ends.
type reporter struct {
	w       *bufio.Writer
	sent    time.Time
	devices int
}

func (r *reporter) send(rec wire.Record) { _, _ = r.w.Write(wire.Append(nil, rec)) }

func (r *reporter) progress(entries int64) error {
	now := time.Now()
	if now.Sub(r.sent) < progressInterval {
		return nil
	}
	r.sent = now
	r.send(wire.Record{Kind: wire.KindProgress, Entries: entries})
	return r.w.Flush()
}

func (r *reporter) device(unsafePath string) {
	if r.devices++; r.devices <= maxDeviceRecords {
		r.send(wire.Record{Kind: wire.KindDevice, Path: unsafePath})
	}
}

// end sends the last record and returns the exit status. A reported failure
// is a success of the worker: what counts is the record.
func (r *reporter) end(last wire.Record) int {
	r.send(last)
	if r.w.Flush() != nil {
		return exitFailed
	}
	return exitOK
}
