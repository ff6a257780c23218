package spawn

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A fault brings back one piece of a split mapping, and more of another.
func TestSplit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, apart := touched(t, path, func([][2]uintptr) {}), touched(t, path, split)
	if want := 1 << 20 / around * piece / os.Getpagesize(); apart > want || whole <= apart {
		t.Errorf("%d pages of a split mapping after one fault in each %d bytes, %d of a whole one; want %d and more",
			apart, around, whole, want)
	}
}

const around = 64 << 10 // bytes that Linux maps at a fault

// touched maps a file, reads a byte in each range that one fault can map, and
// returns how many pages are mapped then (proc_pid_pagemap(5), bit 63).
func touched(t *testing.T, path string, prepare func([][2]uintptr)) (mapped int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	at := uintptr(unsafe.Pointer(&memory[0]))
	prepare([][2]uintptr{{at, at + 1<<20}})
	var sum byte
	for i := 0; i < len(memory); i += around {
		sum += memory[i]
	}
	if sum != 0 {
		t.Error("not the file's bytes")
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	page := os.Getpagesize()
	entries := make([]byte, 8*len(memory)/page)
	if _, err := pagemap.ReadAt(entries, int64(at)/int64(page)*8); err != nil {
		t.Fatal(err)
	}
	for i := 7; i < len(entries); i += 8 {
		mapped += int(entries[i] >> 7)
	}
	return mapped
}
