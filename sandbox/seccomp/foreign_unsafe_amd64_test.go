package seccomp

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// int80 makes an i386 call without arguments, as 32-bit code and 64-bit exploits
// do. ok is false where machine code cannot be placed. A kernel without i386
// support kills the process.
func int80(call uint32) (result int32, ok bool) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0, false
	}
	out := new(int32)
	var pin runtime.Pinner
	pin.Pin(out)
	defer pin.Unpin()
	code := []byte{0xB8} // mov eax, call
	code = binary.LittleEndian.AppendUint32(code, call)
	code = append(code, 0xCD, 0x80, 0x49, 0xBB) // int 0x80; mov r11, out
	code = binary.LittleEndian.AppendUint64(code, uint64(uintptr(unsafe.Pointer(out))))
	code = append(code, 0x41, 0x89, 0x03, 0xC3) // mov [r11], eax; ret
	copy(page, code)
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return 0, false
	}
	funcval := &struct{ entry uintptr }{uintptr(unsafe.Pointer(&page[0]))}
	call80 := *(*func())(unsafe.Pointer(&funcval))
	call80()
	return *out, true
}
