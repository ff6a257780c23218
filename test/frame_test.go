package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// exchange sends one packet to the login socket as the account, and returns
// the answer and how many descriptors came with it. No answer is io.EOF's
// empty packet. A packet that the kernel refuses to carry is no fault.
func exchange(f *fixture, a host.Account, packet []byte) (answer []byte, descriptors int, err error) {
	err = host.As(a, func() error {
		fd, err := f.Dial()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		timeout := unix.Timeval{Sec: 90}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		if err := unix.Send(fd, packet, unix.MSG_NOSIGNAL); err != nil {
			if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return err
		}
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(16*4))
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		answer = buf[:n]
		descriptors, err = closeRights(oob[:oobn])
		return err
	})
	return answer, descriptors, err
}

// closeRights closes the descriptors of a control message and counts them.
func closeRights(oob []byte) (int, error) {
	if len(oob) == 0 {
		return 0, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, err
	}
	count := 0
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials
		}
		for _, fd := range fds {
			unix.Close(fd)
			count++
		}
	}
	return count, nil
}

// TestFrames sends garbage to the login socket, and then a good request.
func TestFrames(t *testing.T) {
	f := setup(t)
	f.empty(t)
	f.in(t, f.bob, "true")
	request := session.Request{Command: session.Command{HasText: true, Text: "exit 0"}, Umask: 0o22}
	good, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// The twin: the good one does get a session, by the same means.
	answer, descriptors, err := exchange(f, f.bob, good)
	if reply, bad := session.DecodeReply(answer); err != nil || bad != nil || reply.Failure != session.None || descriptors != 4 {
		t.Fatalf("a good request: %+v, %d descriptors, %v, %v", reply, descriptors, err, bad)
	}
	before, err := f.Steady()
	if err != nil {
		t.Fatal(err)
	}
	var packets [][]byte
	for n := range len(good) {
		packets = append(packets, good[:n]) // the empty one closes
	}
	packets = append(packets, append(good[:len(good):len(good)], 0), make([]byte, 1<<20), make([]byte, session.MaxFrame+1))
	for kind := range 256 {
		packets = append(packets, append([]byte{session.Version, byte(kind)}, good[2:]...)[:min(len(good), 2+kind)])
		packets = append(packets, append([]byte{byte(kind), good[1]}, good[2:]...)[:len(good)-1])
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		packet := append([]byte(nil), good...)
		for range 1 + rnd.IntN(4) {
			packet[rnd.IntN(len(packet))] = byte(rnd.Uint32())
		}
		packets = append(packets, packet)
	}
	for _, packet := range packets {
		if _, bad := session.DecodeRequest(packet); bad == nil {
			continue // chance made a good one
		}
		answer, descriptors, err := exchange(f, f.bob, packet)
		if err != nil || descriptors != 0 {
			t.Fatalf("%.40x (%d bytes): %d descriptors, %v", packet, len(packet), descriptors, err)
		}
		if len(answer) == 0 {
			continue
		}
		if reply, bad := session.DecodeReply(answer); bad != nil || reply.Failure != session.Protocol {
			t.Fatalf("%.40x (%d bytes): %+v, %v; want a protocol failure or nothing", packet, len(packet), reply, bad)
		}
	}
	f.in(t, f.alice, "true; exit 0")
	f.Carrel("stop", f.alice.Name)
	after, err := f.Settle(before)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("garbage left something behind (-before +after):\n%s", diff)
	}
}

// TestSlowPeers keeps many connections of one user open that say nothing:
// others log in meanwhile, and the daemon gives none of them a descriptor.
func TestSlowPeers(t *testing.T) {
	f := setup(t)
	var idle []int
	t.Cleanup(func() {
		for _, fd := range idle {
			unix.Close(fd)
		}
	})
	err := host.As(f.bob, func() error {
		for range 300 {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: f.Socket()}); err != nil {
				unix.Close(fd)
				if errors.Is(err, unix.EAGAIN) {
					time.Sleep(time.Millisecond) // the queue is full for now
					continue
				}
				return err
			}
			idle = append(idle, fd)
		}
		return nil
	})
	if err != nil || len(idle) < 100 {
		t.Fatalf("%d connections: %v", len(idle), err)
	}
	for range 5 {
		if got := f.in(t, f.alice, "echo served"); got != "served" {
			t.Errorf("alice while bob is idle %d times: %q", len(idle), got)
		}
	}
}

// TestVanishing connects, asks and goes away without taking the answer.
func TestVanishing(t *testing.T) {
	f := setup(t)
	f.empty(t)
	f.in(t, f.bob, "true")
	before, err := f.Steady()
	if err != nil {
		t.Fatal(err)
	}
	request := session.Request{Command: session.Command{HasText: true, Text: "exec sleep 4545"}}
	packet, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		err := host.As(f.bob, func() error {
			fd, err := f.Dial()
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Send(fd, packet, unix.MSG_NOSIGNAL)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	after, err := f.Settle(before)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("sessions that nobody took are still there (-before +after):\n%s", diff)
	}
}
