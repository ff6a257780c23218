package spawn

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trim gives memory back to the kernel once no session has run for a moment:
// the heap, which would otherwise keep what the busiest hour needed, and the
// pages of the program, of which an idle init uses next to none. They stay in
// the page cache for whoever needs them next; a login after a pause takes some
// twenty minor faults to have the ones that it uses.
func (s *Server) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trimming == nil {
		s.trimming = time.AfterFunc(trimTime, func() {
			var program [][2]uintptr
			s.turns.take(func() { program = s.program() })
			s.collecting.Lock()
			debug.FreeOSMemory()
			s.collecting.Unlock()
			time.Sleep(trimTime) // until the runtime's own helpers sleep again
			s.turns.take(func() { unmap(program) })
		})
		return
	}
	s.trimming.Reset(trimTime)
}

// unmap takes the pages of ranges out of the resident set (madvise(2),
// MADV_DONTNEED): the next access reads the same bytes from the file.
func unmap(ranges [][2]uintptr) {
	for _, r := range ranges {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED)
	}
}

// programRanges returns the process's own, each split.
func programRanges() [][2]uintptr {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	ranges := parseRanges(string(smaps))
	split(ranges)
	return ranges
}

// piece is how much of the program one page fault brings back at most, in
// bytes. Smaller pieces bring back less, and cost a fault each and some 200
// bytes of the kernel's.
const piece = 16 << 10

// split makes many mappings of each range. A fault maps the pages around it,
// too, as far as the mapping goes (64 KiB; do_fault_around in mm/memory.c), so
// that the twenty pages that an idle init uses brought back nearly all of the
// program. Only mappings that differ stay apart, so every other one is left out
// of core dumps, which a container does not write.
func split(ranges [][2]uintptr) {
	for _, r := range ranges {
		for at := r[0]; at < r[1]; at += 2 * piece {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, min(piece, r[1]-at), unix.MADV_DONTDUMP)
		}
	}
}

// parseRanges returns the first and the end address of each mapping of a file
// that cannot be written and never was: what a linker relocated before it was
// made read-only has anonymous pages, which nothing would bring back. The text
// is as proc_pid_smaps(5) describes it:
//
//	00400000-0048a000 r-xp 00000000 fd:03 960637       /bin/bash
//	Size:                552 kB
//	Anonymous:             0 kB
func parseRanges(smaps string) (ranges [][2]uintptr) {
	var r [2]uintptr // of the mapping that is being read, 0 if it is none of these
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			r = programRange(fields)
		case r[1] != 0 && len(fields) >= 2 && fields[0] == "Anonymous:" && fields[1] == "0":
			ranges = append(ranges, r)
		}
	}
	return ranges
}

func programRange(fields []string) (r [2]uintptr) {
	if strings.Contains(fields[1], "w") || fields[4] == "0" {
		return r
	}
	from, to, _ := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(from, 16, 64)
	end, errEnd := strconv.ParseUint(to, 16, 64)
	if err != nil || errEnd != nil || first >= end {
		return r
	}
	return [2]uintptr{uintptr(first), uintptr(end)}
}
