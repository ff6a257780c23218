#include "go_asm.h"
#include "textflag.h"

// Offsets from R10. The frame is as in session.HeadStart.
#define HEAD     0
#define ARGC     4
#define UMASK    8
#define RESULT0  12
#define RESULT1  16
#define RESULT2  20
#define TERMIOS  24
#define WINSIZE  60
#define HEADSIZE 72
#define SCRATCH  72  // a struct termios that nobody reads
#define ADDRESS  112 // struct sockaddr_un, 110 bytes
#define IOV      224 // two struct iovec
#define MESSAGE  256 // struct msghdr, 56 bytes
#define SIZE     320

#define SYS_close   3
#define SYS_ioctl   16
#define SYS_socket  41
#define SYS_connect 42
#define SYS_sendmsg 46
#define SYS_umask   95

// DESCRIBE asks for the modes of a terminal. A descriptor that is not open
// (-EBADF) ends the head start: the socket would take its place.
#define DESCRIBE(fd, to, result) \
	MOVL $SYS_ioctl, AX; \
	MOVL $fd, DI; \
	MOVL $0x5401, SI; \ // TCGETS
	LEAQ to(R10), DX; \
	SYSCALL; \
	CMPQ AX, $-9; \
	JEQ  out; \
	MOVL AX, result(R10)

// func headStart()
//
// At the entry the stack holds argc, the argv pointers, 0, the envp pointers,
// 0 and pairs of the auxiliary vector up to AT_NULL (System V ABI, 3.4.1). The
// strings of argv, those of envp and the one of AT_EXECFN follow each other
// without a gap (fs/exec.c, bprm_execve). The kernel keeps all registers but
// AX, CX and R11.
TEXT ·headStart(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ SP, BX
	LEAQ -SIZE(BX), R10
	MOVQ R10, SP

	// R12 and R13 are where the strings begin and end.
	MOVQ 0(BX), CX // argc
	TESTQ CX, CX
	JEQ  out
	MOVQ 8(BX), R12
	LEAQ 16(BX)(CX*8), R8
environment:
	MOVQ 0(R8), AX
	ADDQ $8, R8
	TESTQ AX, AX
	JNE  environment
	XORL R13, R13
	XORL R9, R9
auxiliary:
	MOVQ 0(R8), AX
	MOVQ 8(R8), DX
	ADDQ $16, R8
	CMPQ AX, $23 // AT_SECURE
	JNE  execfn
	ORQ  DX, R9
execfn:
	CMPQ AX, $31 // AT_EXECFN
	JNE  null
	MOVQ DX, R13
null:
	TESTQ AX, AX
	JNE  auxiliary
	TESTQ R9, R9
	JNE  out
	SUBQ R12, R13 // their size
	JLS  out      // none, or no AT_EXECFN
	CMPQ R13, $65536
	JHI  out

	// All of the frame is 0 at first.
	XORL AX, AX
	MOVQ R10, DI
	MOVL $(SIZE/8), CX
	CLD
	REP
	STOSQ
	MOVL $const_versionAndKind, HEAD(R10)
	MOVQ 0(BX), AX
	MOVL AX, ARGC(R10)

	DESCRIBE(0, TERMIOS, RESULT0)
	DESCRIBE(1, SCRATCH, RESULT1)
	DESCRIBE(2, SCRATCH, RESULT2)
	MOVL $SYS_ioctl, AX
	XORL DI, DI
	MOVL $0x5413, SI // TIOCGWINSZ
	LEAQ WINSIZE(R10), DX
	SYSCALL
	MOVL $SYS_umask, AX // there is no way to ask but to set it
	MOVL $63, DI        // 077
	SYSCALL
	MOVL AX, UMASK(R10)
	MOVL AX, DI
	MOVL $SYS_umask, AX
	SYSCALL

	// socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0)
	MOVL $SYS_socket, AX
	MOVL $1, DI
	MOVL $0x80805, SI
	XORL DX, DX
	SYSCALL
	TESTQ AX, AX
	JLT  out
	MOVQ AX, R14

	MOVW $1, ADDRESS(R10) // AF_UNIX
	MOVQ ·socketPath+8(SB), CX
	CMPQ CX, $107 // sun_path without its NUL
	JHI  shut
	MOVQ ·socketPath+0(SB), SI
	LEAQ (ADDRESS+2)(R10), DI
	REP
	MOVSB
	MOVL $SYS_connect, AX
	MOVQ R14, DI
	LEAQ ADDRESS(R10), SI
	MOVL $110, DX
	SYSCALL
	TESTQ AX, AX
	JNE  shut

	MOVQ R10, IOV(R10)
	MOVQ $HEADSIZE, (IOV+8)(R10)
	MOVQ R12, (IOV+16)(R10)
	MOVQ R13, (IOV+24)(R10)
	LEAQ IOV(R10), AX
	MOVQ AX, (MESSAGE+16)(R10)
	MOVQ $2, (MESSAGE+24)(R10)
	MOVL $SYS_sendmsg, AX
	MOVQ R14, DI
	LEAQ MESSAGE(R10), SI
	MOVL $0x4040, DX // MSG_NOSIGNAL|MSG_DONTWAIT
	SYSCALL
	TESTQ AX, AX
	JLT  shut
	MOVL R14, ·headConn(SB)
	JMP  out
shut:
	MOVL $SYS_close, AX
	MOVQ R14, DI
	SYSCALL
out:
	MOVQ BX, SP
	JMP  _rt0_amd64_linux(SB)
