package fidelity

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"
)

// clientEnv makes this test's own program an SSH client built on
// golang.org/x/crypto/ssh.
const clientEnv = "CARREL_FIDELITY_CLIENT"

// setEnv has it set these variables in the session, with a space in between.
const setEnv = "CARREL_FIDELITY_SET"

// forwardEnv has it forward the agent that SSH_AUTH_SOCK names.
const forwardEnv = "CARREL_FIDELITY_FORWARD"

// goClient is called with port, user, key, "tty" or "pipe", and a command, ""
// for a login. It ends with the session's status. It tells a signal, which
// other clients fold into a status, as a line on stderr and status 255. Called
// with "sftp", it copies the first file that the command names to the second
// one, on the server, and that to the third, and removes it.
func goClient(args []string) int {
	client, err := dialGo(args[0], args[1], args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		return 254
	}
	defer client.Close()
	if args[3] == "sftp" {
		err = sftpGo(client, strings.Fields(args[4]))
	} else {
		err = runGo(client, args[3] == "tty", args[4])
	}
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Signal() != "":
		fmt.Fprintln(os.Stderr, "exit-signal:", exit.Signal())
		return 255
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	fmt.Fprintln(os.Stderr, "client:", err)
	return 254
}

func dialGo(port, user, keyFile string) (*ssh.Client, error) {
	pem, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", port), &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // it is our own, on loopback
	})
}

func runGo(client *ssh.Client, tty bool, command string) error {
	s, err := client.NewSession()
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = os.Stdout, os.Stderr
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	send := strings.Fields(os.Getenv(setEnv))
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"LANG", "TZ", "COLORTERM"}, name) || strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "CARREL_HOSTILE") {
			send = append(send, kv)
		}
	}
	for _, kv := range send {
		name, value, _ := strings.Cut(kv, "=")
		_ = s.Setenv(name, value)
	}
	if os.Getenv(forwardEnv) != "" {
		if err := errors.Join(agent.ForwardToRemote(client, os.Getenv("SSH_AUTH_SOCK")), agent.RequestAgentForwarding(s)); err != nil {
			return err
		}
	}
	if tty {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		if err := s.RequestPty(os.Getenv("TERM"), int(size.Row), int(size.Col), nil); err != nil {
			return err
		}
		raw(0)
		winch := make(chan os.Signal, 1)
		signal.Notify(winch, syscall.SIGWINCH)
		go func() {
			for range winch {
				if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
					_ = s.WindowChange(int(size.Row), int(size.Col))
				}
			}
		}()
	}
	if command == "" {
		err = s.Shell()
	} else {
		err = s.Start(command)
	}
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, os.Stdin)
		in.Close()
	}()
	return s.Wait()
}

// sftpGo sends a file there and back.
func sftpGo(client *ssh.Client, names []string) error {
	c, err := sftp.NewClient(client)
	if err != nil {
		return err
	}
	defer c.Close()
	data, err := os.ReadFile(names[0])
	if err != nil {
		return err
	}
	there, err := c.Create(names[1])
	if err != nil {
		return err
	}
	defer there.Close()
	if _, err := there.Write(data); err != nil {
		return err
	}
	if _, err := there.Seek(0, io.SeekStart); err != nil {
		return err
	}
	back, err := io.ReadAll(there)
	return errors.Join(err, os.WriteFile(names[2], back, 0o600), c.Remove(names[1])) //nolint:gosec // a file of the test's
}

// raw is cfmakeraw(3), for the terminal that the client runs on.
func raw(fd int) {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return
	}
	m.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	m.Oflag &^= unix.OPOST
	m.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, m)
}
