package spawn

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseRanges(t *testing.T) {
	const smaps = `00400000-004c5000 r-xp 00000000 fe:00 1234                               /run/.carrel/init
Size:                788 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
004c5000-005c6000 r--p 000c5000 fe:00 1234                               /run/.carrel/init (deleted)
Anonymous:             0 kB
005c6000-005d5000 rw-p 001c6000 fe:00 1234                               /run/.carrel/init
Anonymous:             0 kB
005d5000-0060b000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f68cc000000-7f68cc001000 r--p 00000000 fe:00 1234                       relocated
Anonymous:             4 kB
7f68cc2ef000-7f68cc2f1000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
nonsense
5000-4000 r--p 00000000 fe:00 1 /x
Anonymous:             0 kB
`
	want := [][2]uintptr{{0x400000, 0x4c5000}, {0x4c5000, 0x5c6000}}
	if diff := cmp.Diff(want, parseRanges(smaps)); diff != "" {
		t.Errorf("parseRanges (-want +got):\n%s", diff)
	}
}

// What is taken out of the resident set comes back when it is used.
func TestUnmap(t *testing.T) {
	ranges := programRanges()
	for _, r := range ranges {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatal(errno)
		}
	}
	before := residentFiles(t)
	unmap(ranges)
	if after := residentFiles(t); after > before*2/3 {
		t.Errorf("%d KiB of files resident, %d before", after, before)
	}
}

// residentFiles is RssFile of proc_pid_status(5), in KiB.
func residentFiles(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
