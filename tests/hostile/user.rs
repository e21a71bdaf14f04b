//! One process of a hostile user: gives its privileges up, and then calls whatever it can.

use std::ffi::CString;
use std::io;
use std::time::{Duration, Instant};

use crate::places::{self, Random, USERS, User};

/// The exit code of a process that read what its user must not see.
pub const SAW_A_SECRET: i32 = 66;

/// So many descriptors are kept open at most.
const OPEN: usize = 40;
/// No process does more than this.
const LIFE: Duration = Duration::from_secs(60);

/// An open file.
#[derive(Clone, Copy)]
pub struct Fd {
    pub number: i32,
    /// Another user passed it along: what it gives is given.
    pub passed: bool,
}

/// The state of a process.
pub struct Hostile {
    pub random: Random,
    pub user: &'static User,
    pub fds: Vec<Fd>,
    /// Names that listings showed.
    pub names: Vec<Vec<u8>>,
    pub secrets: Vec<String>,
    /// It is a child of the first process and ends soon.
    pub forked: bool,
    socket: i32,
}

/// Does the part `UID:SEED:MOUNT`.
pub fn main(part: &str) {
    let mut words = part.splitn(3, ':');
    let mut word = || words.next().expect("UID:SEED:MOUNT");
    let uid: u32 = word().parse().unwrap();
    let random = Random(word().parse::<u64>().unwrap() | 1);
    let mount = CString::new(word()).unwrap();
    let user = USERS.iter().find(|user| user.uid == uid).unwrap();
    // SAFETY: calls with numbers and valid pointers.
    unsafe {
        assert_eq!(libc::chdir(mount.as_ptr()), 0);
        assert_eq!(libc::setgroups(user.groups.len(), user.groups.as_ptr()), 0);
        assert_eq!(libc::setresgid(uid, uid, uid), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_DUMPABLE, 1); // so that /proc/self is its own
        libc::nice(5);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        // A signal ends calls that wait.
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let often = libc::timeval { tv_sec: 0, tv_usec: 30_000 };
        let timer = libc::itimerval { it_interval: often, it_value: often };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
    let secrets = places::secrets();
    let socket = socket_of(uid, std::process::id());
    let mut hostile = Hostile { random, user, fds: Vec::new(), names: Vec::new(), secrets, forked: false, socket };
    let begun = Instant::now();
    while begun.elapsed() < LIFE {
        hostile.step();
    }
}

extern "C" fn nothing(_signal: i32) {}

impl Hostile {
    /// One call, or one of the things that concern processes.
    pub fn step(&mut self) {
        match self.random.below(100) {
            0 if !self.forked => self.fork(),
            1 => self.pass_along(),
            2 => self.receive(),
            _ => self.call(),
        }
        while self.fds.len() > OPEN {
            let at = self.random.below(self.fds.len());
            self.close(at);
        }
    }

    /// Keeps an open file.
    pub fn keep(&mut self, number: i32, passed: bool) {
        if number >= 0 {
            self.fds.push(Fd { number, passed });
        }
    }

    pub fn close(&mut self, at: usize) {
        let fd = self.fds.swap_remove(at);
        // SAFETY: a descriptor of its own.
        unsafe { libc::close(fd.number) };
    }

    /// A child that inherits everything does a few steps and ends in one of the ways in which processes end.
    fn fork(&mut self) {
        // SAFETY: this process has one thread that does anything.
        if unsafe { libc::fork() } != 0 {
            return;
        }
        self.forked = true;
        // SAFETY: calls with numbers. The alarm ends this process.
        unsafe {
            libc::signal(libc::SIGALRM, libc::SIG_DFL);
            libc::alarm(1);
            if self.random.below(3) == 0 {
                libc::setsid();
            }
        }
        for _ in 0..self.random.below(20) {
            self.step();
        }
        let end = self.random.below(4);
        // SAFETY: it ends.
        unsafe {
            match end {
                0 => libc::kill(libc::getpid(), libc::SIGKILL),
                1 => libc::kill(libc::getpid(), libc::SIGTERM),
                code => libc::_exit(code as i32 - 2),
            };
            libc::_exit(0);
        }
    }

    /// Sends a descriptor to whatever process of a hostile user takes it.
    fn pass_along(&mut self) {
        let Some(fd) = self.some_fd() else { return };
        let to = USERS[self.random.below(USERS.len())].uid;
        let slot = self.random.below(SLOTS as usize) as u32;
        let (address, length) = address(to, slot);
        let mut byte = [u8::from(fd.passed)];
        let mut io = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let mut control = [0_u64; 4];
        // SAFETY: the message refers to what lives until the call is over, with the lengths it has.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw const address).cast_mut().cast();
            message.msg_namelen = length;
            (message.msg_iov, message.msg_iovlen) = (&mut io, 1);
            (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), libc::CMSG_SPACE(4) as usize);
            let head = libc::CMSG_FIRSTHDR(&message);
            ((*head).cmsg_level, (*head).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(head).cast::<i32>().write_unaligned(fd.number);
            libc::sendmsg(self.socket, &message, libc::MSG_DONTWAIT);
        }
    }

    fn receive(&mut self) {
        let mut byte = [0];
        let mut io = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let mut control = [0_u64; 4];
        // SAFETY: as above; the kernel fills the control buffer in.
        let received = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&mut io, 1);
            (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 32);
            if libc::recvmsg(self.socket, &mut message, libc::MSG_DONTWAIT) < 0 {
                return;
            }
            let head = libc::CMSG_FIRSTHDR(&message);
            if head.is_null() { -1 } else { libc::CMSG_DATA(head).cast::<i32>().read_unaligned() }
        };
        self.keep(received, true);
    }

    pub fn some_fd(&mut self) -> Option<Fd> {
        if self.fds.is_empty() { None } else { Some(self.fds[self.random.below(self.fds.len())]) }
    }

    /// Ends the process when it got what its user must not see.
    pub fn look_at(&self, bytes: &[u8], how: &str) {
        let Some(at) = bytes.windows(6).position(|window| window == b"SECRET") else { return };
        let text = &bytes[at..];
        if let Some(secret) = self.secrets.iter().find(|secret| text.starts_with(secret.as_bytes())) {
            eprintln!("user {} saw by {how}: {secret}", self.user.uid);
            // SAFETY: it ends.
            unsafe { libc::_exit(SAW_A_SECRET) };
        }
    }
}

/// So many sockets of a user take descriptors.
const SLOTS: u32 = 4;

/// The abstract address of a user's socket.
fn address(uid: u32, slot: u32) -> (libc::sockaddr_un, u32) {
    // SAFETY: zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let name = format!("mqfs-hostile-{uid}-{slot}");
    for (to, from) in address.sun_path[1..].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    (address, (2 + 1 + name.len()) as u32)
}

fn socket_of(uid: u32, pid: u32) -> i32 {
    // SAFETY: calls with numbers and a valid address.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        let (address, length) = address(uid, pid % SLOTS);
        libc::bind(socket, (&raw const address).cast(), length); // or somebody else has it
        socket
    }
}
