"""An SSH client on paramiko: port user key tty|pipe command; or sftp local remote back."""
import os, sys, threading
import paramiko

port, user, key, kind, command = sys.argv[1:6]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
if kind == "sftp":
    local, remote, back = command.split()
    sftp = client.open_sftp()
    sftp.put(local, remote)
    sftp.get(remote, back)
    sftp.remove(remote)
    client.close()
    sys.exit(0)
channel = client.get_transport().open_session()
if kind == "tty":
    size = os.get_terminal_size(0)
    channel.get_pty(os.environ["TERM"], size.columns, size.lines)
channel.exec_command(command)


def feed():
    while data := os.read(0, 32768):
        channel.sendall(data)
    channel.shutdown_write()


def drain(receive, to):
    while data := receive(32768):
        os.write(to, data)


threading.Thread(target=feed, daemon=True).start()
threads = [threading.Thread(target=drain, args=a) for a in ((channel.recv, 1), (channel.recv_stderr, 2))]
for t in threads:
    t.start()
for t in threads:
    t.join()
status = channel.recv_exit_status()
client.close()
os._exit(status if status >= 0 else 255)  # -1 is a signal
