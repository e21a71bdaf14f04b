//! Writing into a queue through sshfs, from a real client to a real server: it looks at each file by its name as soon as it has
//! opened it, and sets its mode and times by name, before or after it was closed.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::*;

/// What Debian's start of the service makes.
const RUN_DIRECTORY: &str = "/run/sshd";

/// A server on a port of the loopback device, and a mount point at which its client shows a directory.
struct Sshfs {
    server: Child,
    point: PathBuf,
}

fn key(dir: &Path, name: &str) -> PathBuf {
    let key = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    key
}

impl Sshfs {
    /// Shows `target` by way of the server. What it needs is in the mount's scratch directory.
    fn new(m: &Mount, target: &Path) -> Sshfs {
        let dir = m.scratch();
        let (host, user) = (key(&dir, "host"), key(&dir, "user"));
        if !Path::new(RUN_DIRECTORY).exists() {
            let _ = fs::DirBuilder::new().mode(0o755).create(RUN_DIRECTORY);
        }
        let config = dir.join("sshd_config");
        let lines = format!(
            "ListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
            host.display(),
            user.display()
        );
        fs::write(&config, lines).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = File::create(dir.join("sshd.log")).unwrap();
        let mut server = Command::new("/usr/sbin/sshd");
        server.args(["-D", "-e", "-p", &port.to_string(), "-f"]).arg(&config);
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let point = dir.join("point");
        fs::create_dir(&point).unwrap();
        let sshfs = Sshfs { server, point };
        wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let options = format!(
            "IdentityFile={},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR",
            user.display()
        );
        let mut client = Command::new("sshfs");
        client.args(["-F", "/dev/null", "-p", &port.to_string(), "-o", &options]);
        client.arg(format!("root@127.0.0.1:{}", target.display())).arg(&sshfs.point);
        let mounted = m.run(&mut client);
        let log = fs::read_to_string(dir.join("sshd.log")).unwrap();
        assert!(mounted.status.success(), "{}{log}", mounted.stderr);
        sshfs
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").arg("-uz").arg(&self.point).stderr(Stdio::null()).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Every file that a program writes there is one message, whole, and no program complains.
#[test]
fn programs_enqueue_through_sshfs() {
    let m = Mount::new();
    let queues = [m.queue("q"), m.queue_with("k", &["names=keep"])];
    let sshfs = Sshfs::new(&m, m.path());
    assert!(is_mounted(&sshfs.point));
    m.sh("head -c 3000000 /dev/urandom > $T/large; echo small > $T/small").ok();
    let body = |name: &str| fs::read(m.scratch().join(name)).unwrap();
    for queue in queues {
        let name = queue.file_name().unwrap().to_str().unwrap();
        for (n, (script, source)) in (0..).zip([
            ("echo small > a0", "small"),
            ("cp $T/large a1", "large"),
            ("cp -p $T/small a2", "small"),
            ("install -m 600 $T/large a3", "large"),
            ("rsync -t $T/large a4", "large"),
            ("rsync --inplace -t $T/small a5", "small"),
            ("dd if=$T/large of=a6 bs=64k status=none", "large"),
            ("cp $T/small a7.tmp && exec 3< a7.tmp && mv a7.tmp a7 && exec 3<&-", "small"),
            ("exec 3> a8; echo small >&3; stat a8 > $T/out; chmod 600 a8; exec 3>&-", "small"),
            ("python3 -c 'import os, shutil; shutil.copy2(os.environ[\"T\"] + \"/large\", \"a9\")'", "large"),
        ]) {
            // The name that the temporary file had is that of a message, where each file is one.
            if script.contains("mv") && name == "q" {
                continue;
            }
            let before = m.messages(&queue).len();
            m.sh(&format!("cd $T/point/{name}; {script}")).ok();
            wait_until(|| m.messages(&queue).len() == before + 1);
            let (listed, bytes) = m.messages(&queue).pop().unwrap();
            assert!(listed.ends_with(&format!("a{n}")), "{script}: {listed}");
            assert!(bytes == body(source), "{script}: {} bytes", bytes.len());
        }
        let stats = m.stats(&queue);
        assert_eq!((&stats["aborted_total"], &stats["claims_total"]), (&0.into(), &0.into()), "{stats}");
    }
}
