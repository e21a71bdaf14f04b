//! Where servers of the tests' own live: a directory, with all that is started in it, on loopback and on ports that nobody had. Each
//! ends with its place, and at the latest with the test program, however that ends: a guard waits for it.

#![allow(dead_code)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::common::{LIMIT, poll};

/// Kills all groups of processes that are noted in a directory, and removes it, when a process has ended. Their leaders are named by
/// files in `groups`; a server that leaves its group writes the file `pid`.
const GUARD: &str = r#"tail --pid="$1" -s 0.2 -f /dev/null
    for group in "$0"/groups/*; do kill -9 "-${group##*/}"; done
    if [ -s "$0/pid" ]; then kill -9 "$(cat "$0/pid")"; fi
    tries=0
    until rm -rf "$0" || [ $((tries += 1)) -gt 50 ]; do sleep 0.1; done"#;

/// A directory for a server. What is started in it ends with it.
pub struct Place {
    dir: PathBuf,
    /// Not a pipe that closes: a test's thread may have a table of descriptors of its own, which ends with it.
    guard: Child,
    started: Mutex<Vec<Child>>,
}

impl Place {
    /// Makes one; the kind of server is part of its name.
    pub fn new(kind: &str) -> Place {
        let dir = tempfile::Builder::new().prefix(&format!("mqfs-test-{kind}-")).tempdir().unwrap().keep();
        fs::create_dir(dir.join("groups")).unwrap();
        let mut guard = Command::new("/bin/sh");
        // A group of its own, so that a ^C does not end it together with those whose end it waits for.
        guard.args(["-c", GUARD]).arg(&dir).arg(std::process::id().to_string()).stdin(Stdio::null()).process_group(0);
        let guard = guard.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Place { dir, guard, started: Mutex::new(Vec::new()) }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A command without anything of the user's that runs the tests but TMPDIR, by which scripts/test finds what was left behind; its
    /// home is the directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir))).env("HOME", &self.dir);
        command.current_dir(&self.dir);
        command
    }

    /// Starts a server, whose output goes to a file in the directory; it leads a group of its own. Its process id.
    pub fn start(&self, command: &mut Command) -> u32 {
        let log = fs::File::options().create(true).append(true).open(self.path("output")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let program = command.get_program().to_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let pid = child.id();
        self.write(&format!("groups/{pid}"), "");
        self.started.lock().unwrap().push(child);
        pid
    }

    /// Sends a signal to the group that a server leads, and waits for its end if that is SIGKILL.
    pub fn signal(&self, pid: u32, signal: i32) {
        // SAFETY: a call without pointers; the group's leader is a child, which nobody has waited for.
        unsafe { libc::kill(-(pid as i32), signal) };
        if signal == libc::SIGKILL {
            let mut started = self.started.lock().unwrap();
            let at = started.iter().position(|child| child.id() == pid).expect("it was started here");
            let _ = started.swap_remove(at).wait();
            fs::remove_file(self.path(&format!("groups/{pid}"))).unwrap();
        }
    }

    /// What the servers have said: for a test that fails.
    pub fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        kill(-(self.guard.id() as i32));
        let _ = self.guard.wait();
        fs::read_to_string(self.path("pid")).into_iter().filter_map(|pid| pid.trim().parse().ok()).for_each(kill);
        let mut started = self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for child in started.iter_mut() {
            kill(-(child.id() as i32));
            let _ = child.wait();
        }
        poll(LIMIT, || fs::remove_dir_all(&self.dir).is_ok());
    }
}

/// Ends a process, or the group that one leads.
fn kill(pid: i32) {
    // SAFETY: a call without pointers; the process is ours.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Ports that nobody has now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Runs something in a network of its own, with nothing in it but loopback, which all that it starts is in: there, servers can have
/// the ports that everybody knows.
pub fn in_own_network(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // SAFETY: a call without pointers; it changes the calling thread only, which ends with this.
            let own = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(own, 0, "unshare(CLONE_NEWNET): {}", std::io::Error::last_os_error());
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            run();
        });
        if let Err(panic) = ran.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes `ca.pem`; `key.pem` and `cert.pem`, of 127.0.0.1; with the same key `elsewhere.pem`, of another address, and `expired.pem`, of long
/// ago; and `client.pem` and `client.key`, of a client called guest.
pub fn make_certificates(dir: &Path) {
    let script = "set -e
        sign() { openssl x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out \"$1\"; }
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout key.pem -out csr
        printf 'subjectAltName=IP:127.0.0.2\\nbasicConstraints=CA:FALSE\\n' > ext
        sign elsewhere.pem
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
        sign cert.pem
        printf '%s\\n' '[ca]' default_ca=d '[d]' database=index serial=ca.srl policy=p '[p]' commonName=supplied > ca.conf
        : > index
        openssl ca -batch -config ca.conf -in csr -cert ca.pem -keyfile ca.key -md sha256 -outdir . -notext \\
            -startdate 20200101000000Z -enddate 20200102000000Z -extfile ext -out expired.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=guest -keyout client.key -out csr
        printf 'subjectAltName=email:guest\\nbasicConstraints=CA:FALSE\\n' > ext
        sign client.pem
        chmod 0600 client.key";
    let out = Command::new("bash").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
