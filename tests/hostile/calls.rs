//! Random system calls on random paths and descriptors of the mount.

use std::ffi::CString;

use crate::places;
use crate::user::{Fd, Hostile};

const CONTROLS: &[&str] = &[
    "config", "stats", "claim", "pop", "lines", "purge", "batch", "peek", "claimed", "delayed", "dead", "with",
    "metrics",
];
const STATES: &[&str] = &["peek", "claimed", "delayed", "dead"];
const PLAIN: &[&str] = &[
    "a",
    "b",
    "c.csv",
    "x y",
    ".d",
    ".e",
    ".f",
    ".root",
    ".",
    "..",
    ".mq",
    ".mqx",
    "a\nb",
    "-rf",
    "\x1b[31mred",
    "%41",
    "q1",
    "q2",
    "0000000000000042",
    "a,b=c",
    "m1",
];
const WORDS: &[&str] = &[
    "priority=9",
    "delay=1s",
    "delay=18446744073709551615s999999us999us",
    "ttl=1s",
    "id=x",
    "id=y",
    "header.a=b",
    "header.%0aERROR=x",
    "deliver_at=2026-01-31T08:00:00Z",
    "group=g",
    "colour=red",
    "=",
    "%",
];
const ATTRIBUTES: &[&str] = &[
    "user.mq.priority",
    "user.mq.delay",
    "user.mq.deliver_at",
    "user.mq.ttl",
    "user.mq.dedup_id",
    "user.mq.id",
    "user.mq.seq",
    "user.mq.name",
    "user.mq.state",
    "user.mq.claimed_by",
    "user.mq.deadline",
    "user.mq.max_deliveries",
    "user.mq.names",
    "user.mq.dead_letter",
    "user.mq.visibility_timeout",
    "user.mq.ready",
    "user.mq.waiting",
    "user.mq.daemon_pid",
    "user.mq.oldest_ready_age_ms",
    "user.told",
    "user.x",
    "user.",
    "trusted.x",
    "security.capability",
    "system.posix_acl_access",
];
const VALUES: &[&str] = &[
    "9",
    "1s",
    "2026-01-31T08:00:00Z",
    "x",
    "",
    "keep",
    "sequence",
    "0",
    "99999999999999999999",
    "private",
    "drop",
    "group/../private",
    "closed",
    "a\nb",
    "100ms",
];
const CONFIGS: &[&str] = &[
    "names=keep\n",
    "names=sequence\n",
    "paused=both\n",
    "paused=no\n",
    "priorities=10\n",
    "max_messages=3\noverflow=drop-oldest\n",
    "max_messages=0\n",
    "dead_letter=private\nmax_deliveries=1\n",
    "dead_letter=closed\nmax_deliveries=1\nvisibility_timeout=10ms\n",
    "visibility_timeout=50ms\n",
    "lines_batch=100000\n",
    "claim=rename\n",
    "claim=read\n",
    "retry_delay=1s\nretry_backoff=exponential\n",
    "durability=async\n",
    "message_ttl=1s\nexpired=drop\n",
    "colour=blue\x1b[31m\n",
    "all\n",
    "ready dead\n",
    "drafts\n",
];
/// Offsets and lengths that programs get wrong.
const NUMBERS: &[i64] =
    &[0, 1, 17, 4096, 32 * 1024, 32 * 1024 + 1, 100_000, 300_000, 1 << 50, i64::MAX - 1, i64::MAX, -1, i64::MIN];

/// Whether a call succeeds is not of interest.
fn ignore<T>(_: T) {}

fn c(bytes: impl Into<Vec<u8>>) -> CString {
    let mut bytes = bytes.into();
    bytes.retain(|byte| *byte != 0);
    CString::new(bytes).unwrap()
}

impl Hostile {
    fn name(&mut self) -> Vec<u8> {
        match self.random.below(12) {
            0..5 => self.random.of(PLAIN).as_bytes().to_vec(),
            5..8 if !self.names.is_empty() => {
                let at = self.random.below(self.names.len());
                self.names[at].clone()
            }
            8 => vec![b'n'; [237, 238, 239, 255, 256, 1000][self.random.below(6)]],
            9 => b".".repeat(1 + self.random.below(300)),
            10 => b"\xff\xfe\x80".to_vec(),
            _ => {
                let seq = self.random.below(3000);
                let tail = ["", "-a", "-m1", "-"][self.random.below(4)];
                format!("{seq:016}{tail}").into_bytes()
            }
        }
    }

    fn words(&mut self) -> String {
        let count = 1 + self.random.below(2);
        (0..count).map(|_| self.random.of(WORDS)).collect::<Vec<_>>().join(",")
    }

    fn queue(&mut self) -> Vec<u8> {
        let all: Vec<&str> = places::names().collect();
        let mut path = self.random.of(&all).as_bytes().to_vec();
        while self.random.below(6) == 0 {
            path.extend_from_slice([&b"/q1"[..], b"/q2"][self.random.below(2)]);
        }
        path
    }

    /// A path below the mount.
    fn path(&mut self) -> CString {
        let mut path = if self.random.below(15) == 0 { self.name() } else { self.queue() };
        let (control, state) = (self.random.of(CONTROLS), self.random.of(STATES));
        let below = match self.random.below(16) {
            0..7 => self.name(),
            7 => Vec::new(),
            8 | 9 => format!(".mq/{control}").into_bytes(),
            10..13 => [b".mq/", state.as_bytes(), b"/", &self.name()].concat(),
            13 => [b".mq/with/", self.words().as_bytes(), b"/", &self.name()].concat(),
            14 => [b".mq/batch/", &self.name()[..], b"/", &self.name()].concat(),
            _ => [b".mq/batch/", &self.name()[..]].concat(),
        };
        path.push(b'/');
        path.extend(below);
        if self.random.below(20) == 0 {
            path = format!("/proc/self/fd/{}", self.some_fd().map_or(0, |fd| fd.number)).into_bytes();
        }
        if self.random.below(100) == 0 {
            path = b".mq/metrics".to_vec();
        }
        if self.random.below(40) == 0 {
            path = [&b"open/.mq/.."[..], b"/../private/.mq/peek/../", &self.name()].concat();
        }
        c(path)
    }

    fn number(&mut self) -> i64 {
        let special = NUMBERS[self.random.below(NUMBERS.len())];
        if self.random.below(3) == 0 { special } else { self.random.below(70_000) as i64 }
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.random.below(6) {
            0 => self.random.of(CONFIGS).as_bytes().to_vec(),
            1 => vec![b'x'; self.random.below(50_000)],
            2 => b"line\n".repeat(self.random.below(700)),
            3 => Vec::new(),
            _ => b"body\n".to_vec(),
        }
    }

    /// One call.
    pub fn call(&mut self) {
        match self.random.below(48) {
            0..14 => self.open(),
            14..26 => self.on_descriptor(),
            26..40 => self.on_path(),
            40..43 if !self.fds.is_empty() => {
                let at = self.random.below(self.fds.len());
                self.close(at);
            }
            43 | 44 => self.list(),
            45 if self.random.below(4) == 0 => self.nest(),
            45 => self.attributes(),
            46 => self.across(),
            _ => self.map(),
        }
    }

    fn flags(&mut self) -> i32 {
        let mut flags = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, 3][self.random.below(4)];
        let more = [
            libc::O_CREAT,
            libc::O_EXCL,
            libc::O_TRUNC,
            libc::O_APPEND,
            libc::O_NONBLOCK,
            libc::O_DIRECTORY,
            libc::O_NOFOLLOW,
            libc::O_SYNC,
            libc::O_DIRECT,
            libc::O_PATH,
            libc::O_TMPFILE,
            libc::O_NOATIME,
            libc::O_ASYNC,
            libc::O_CREAT,
        ];
        for flag in more {
            if self.random.below(6) == 0 {
                flags |= flag;
            }
        }
        // What waits is waited for by few.
        if self.random.below(8) != 0 { flags | libc::O_NONBLOCK } else { flags }
    }

    fn open(&mut self) {
        let (path, flags, mode) = (self.path(), self.flags(), self.random.below(0o10000) as u32);
        let at = if self.random.below(4) == 0 {
            self.some_fd().map_or(libc::AT_FDCWD, |fd| fd.number)
        } else {
            libc::AT_FDCWD
        };
        // SAFETY: a valid path, and a structure of the length given.
        let fd = unsafe {
            match self.random.below(4) {
                0 => {
                    let mut how: libc::open_how = std::mem::zeroed();
                    (how.flags, how.mode) =
                        (flags as u64, if flags & libc::O_CREAT != 0 { u64::from(mode & 0o7777) } else { 0 });
                    how.resolve = self.random.below(64) as u64;
                    libc::syscall(libc::SYS_openat2, at, path.as_ptr(), &how, size_of::<libc::open_how>()) as i32
                }
                1 => libc::creat(path.as_ptr(), mode),
                _ => libc::openat(at, path.as_ptr(), flags, mode),
            }
        };
        self.keep(fd, false);
        if fd >= 0 && self.random.below(2) == 0 {
            self.read(Fd { number: fd, passed: false });
        }
    }

    fn read(&mut self, fd: Fd) {
        let mut buffer = vec![0_u8; [1, 100, 5000, 70_000, 1 << 20][self.random.below(5)]];
        let (at, length) = (self.number(), buffer.len());
        // SAFETY: a buffer of that length.
        let read = unsafe {
            match self.random.below(3) {
                0 => libc::pread(fd.number, buffer.as_mut_ptr().cast(), length, at),
                _ => libc::read(fd.number, buffer.as_mut_ptr().cast(), length),
            }
        };
        if read > 0 && !fd.passed {
            self.look_at(&buffer[..read as usize], "reading");
        }
    }

    fn on_descriptor(&mut self) {
        let Some(fd) = self.some_fd() else { return };
        let (n, one, other, bytes) = (fd.number, self.number(), self.number(), self.bytes());
        // SAFETY: descriptors and numbers; pointers to what lives through the call, with its length.
        unsafe {
            match self.random.below(22) {
                0..5 => self.read(fd),
                5..8 => ignore(libc::write(n, bytes.as_ptr().cast(), bytes.len())),
                8 => ignore(libc::pwrite(n, bytes.as_ptr().cast(), bytes.len(), one)),
                9 => ignore(libc::lseek(n, one, self.random.below(6) as i32)),
                10 => ignore(libc::ftruncate(n, one)),
                11 => ignore(libc::fallocate(n, self.random.below(64) as i32, one, other)),
                12 => ignore(libc::fsync(n)),
                13 => ignore(libc::fchmod(n, self.random.below(0o10000) as u32)),
                14 => ignore(libc::fchown(n, self.random.below(3) as u32 * 12345, u32::MAX)),
                15 => {
                    let lock = libc::flock {
                        l_type: self.random.below(3) as i16,
                        l_whence: 0,
                        l_start: one,
                        l_len: other,
                        l_pid: 0,
                    };
                    libc::fcntl(n, libc::F_SETLK, &lock);
                    libc::flock(n, libc::LOCK_NB | [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN][self.random.below(3)]);
                }
                16 => {
                    let mut polled = libc::pollfd { fd: n, events: self.random.below(1 << 14) as i16, revents: 0 };
                    libc::poll(&mut polled, 1, self.random.below(5) as i32);
                }
                17 => {
                    let mut out = [0_u8; 256];
                    let command = [libc::FIONREAD, 0x8008_6601, 0x4008_6602, 0x801c_581f, 0x5401, one as u64]
                        [self.random.below(6)];
                    libc::ioctl(n, command as _, out.as_mut_ptr());
                }
                18 => {
                    let mut statfs: libc::statfs = std::mem::zeroed();
                    libc::fstatfs(n, &mut statfs);
                    let mut stat: libc::stat = std::mem::zeroed();
                    libc::fstat(n, &mut stat);
                }
                19 => {
                    let copy = libc::dup(n);
                    self.keep(copy, fd.passed);
                }
                20 => {
                    let to = self.path();
                    libc::linkat(n, c"".as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_EMPTY_PATH);
                    let from = c(format!("/proc/self/fd/{n}"));
                    libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW);
                }
                _ => ignore(libc::fcntl(
                    n,
                    libc::F_SETFL,
                    (self.random.below(2) as i32 * libc::O_NONBLOCK) | libc::O_APPEND,
                )),
            }
        }
    }

    fn on_path(&mut self) {
        let (from, to, one) = (self.path(), self.path(), self.number());
        let mode = self.random.below(0o10000) as u32;
        let (a, b) = (from.as_ptr(), to.as_ptr());
        // SAFETY: valid paths and numbers; pointers to what lives through the call.
        unsafe {
            match self.random.below(20) {
                0..3 => ignore(libc::rename(a, b)),
                3 => ignore(libc::renameat2(libc::AT_FDCWD, a, libc::AT_FDCWD, b, self.random.below(8) as u32)),
                4 | 5 => ignore(libc::link(a, b)),
                6 => ignore(libc::symlink(a, b)),
                7 => {
                    let kind = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR][self.random.below(4)];
                    libc::mknod(a, kind | mode, 0x103);
                }
                8 | 9 => ignore(libc::mkdir(a, mode)),
                10 => ignore(libc::rmdir(a)),
                11 | 12 => ignore(libc::unlink(a)),
                13 => ignore(libc::chmod(a, mode)),
                14 => ignore(libc::chown(a, self.user.uid, [4, 54321, u32::MAX][self.random.below(3)])),
                15 => ignore(libc::truncate(a, one)),
                16 | 17 => {
                    let seconds = [0, -1, i64::MAX, i64::MIN, 1 << 33, 1_769_846_400, -(1 << 33)];
                    let nanos = [0, 999_999_999, libc::UTIME_NOW, libc::UTIME_OMIT];
                    let mut time = || libc::timespec {
                        tv_sec: seconds[self.random.below(7)],
                        tv_nsec: nanos[self.random.below(4)],
                    };
                    let times = [time(), time()];
                    libc::utimensat(libc::AT_FDCWD, a, times.as_ptr(), 0);
                }
                18 => {
                    let mut stat: libc::stat = std::mem::zeroed();
                    libc::lstat(a, &mut stat);
                    libc::access(a, self.random.below(8) as i32);
                }
                _ => {
                    // What was just written, moved on at once.
                    let fd = libc::open(a, libc::O_CREAT | libc::O_WRONLY | libc::O_NONBLOCK, mode);
                    if fd >= 0 {
                        let bytes = self.bytes();
                        libc::write(fd, bytes.as_ptr().cast(), bytes.len());
                        libc::rename(a, b);
                        libc::close(fd);
                    }
                }
            }
        }
    }

    /// Nests queues as deeply as that goes, and moves something in there.
    fn nest(&mut self) {
        let (top, from) = (c(self.queue()), self.path());
        let name = c(vec![b'd'; [100, 250][self.random.below(2)]]);
        // SAFETY: valid paths and descriptors.
        unsafe {
            let mut directory = libc::open(top.as_ptr(), libc::O_PATH | libc::O_DIRECTORY);
            for _ in 0..self.random.below(50) {
                libc::mkdirat(directory, name.as_ptr(), 0o777);
                let next = libc::openat(directory, name.as_ptr(), libc::O_PATH | libc::O_DIRECTORY);
                if next < 0 {
                    break;
                }
                libc::close(directory);
                directory = next;
            }
            libc::renameat(libc::AT_FDCWD, from.as_ptr(), directory, c"moved".as_ptr());
            libc::close(directory);
        }
    }

    fn list(&mut self) {
        let directory = match self.random.below(3) {
            0 => c(self.queue()),
            _ => c([&self.queue()[..], b"/.mq/", self.random.of(STATES).as_bytes()].concat()),
        };
        let mut buffer = vec![0_u8; 1 + self.random.below(32 * 1024)];
        // SAFETY: valid pointers with their lengths; entries are read within what the kernel filled in.
        unsafe {
            let fd = libc::open(directory.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            if fd < 0 {
                return;
            }
            for _ in 0..1 + self.random.below(3) {
                if self.random.below(4) == 0 {
                    let at = if self.random.below(2) == 0 { self.number() } else { (self.random.next() >> 1) as i64 };
                    libc::lseek(fd, at, libc::SEEK_SET);
                }
                let filled = libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len());
                let mut at = 0;
                while at + 19 < filled.max(0) as usize {
                    let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
                    let name = &buffer[at + 19..at + length];
                    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                    assert!(end > 0 && end <= 255, "a listed name of {end} bytes");
                    let name = name[..end].to_vec();
                    let place = self.random.below(64);
                    if place < self.names.len() {
                        self.names[place] = name
                    } else {
                        self.names.push(name)
                    }
                    at += length;
                }
            }
            self.keep(fd, false);
        }
    }

    fn attributes(&mut self) {
        let (path, name) = (self.path(), c(self.random.of(ATTRIBUTES)));
        let value = match self.random.below(5) {
            0 => vec![b'v'; self.random.below(65_536)],
            _ => self.random.of(VALUES).as_bytes().to_vec(),
        };
        let mut buffer = vec![0_u8; self.random.below(70_000)];
        let (a, n, out) = (path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr());
        // SAFETY: valid strings, and buffers with their lengths.
        let got = unsafe {
            match self.random.below(5) {
                0 => libc::listxattr(a, out.cast(), buffer.len()),
                1 => {
                    libc::removexattr(a, n);
                    -1
                }
                2 | 3 => libc::getxattr(a, n, out.cast(), buffer.len()),
                _ => {
                    libc::setxattr(a, n, value.as_ptr().cast(), value.len(), self.random.below(4) as i32);
                    -1
                }
            }
        };
        if got > 0 && !path.as_bytes().starts_with(b"/proc") {
            let got = (got as usize).min(buffer.len());
            self.look_at(&buffer[..got], "an attribute");
        }
    }

    /// From one descriptor to another within the kernel.
    fn across(&mut self) {
        let (Some(from), Some(to)) = (self.some_fd(), self.some_fd()) else { return };
        let length = self.random.below(200_000);
        let mut pipe = [0; 2];
        // SAFETY: descriptors, numbers, and a pair for the pipe.
        unsafe {
            match self.random.below(3) {
                0 => ignore(libc::sendfile(to.number, from.number, std::ptr::null_mut(), length)),
                1 => {
                    let none = std::ptr::null_mut();
                    libc::copy_file_range(from.number, none, to.number, none, length, 0);
                }
                _ if libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK) == 0 => {
                    let none = std::ptr::null_mut();
                    libc::splice(from.number, none, pipe[1], none, length, libc::SPLICE_F_NONBLOCK);
                    if self.random.below(2) == 0 {
                        self.read(Fd { number: pipe[0], passed: from.passed });
                    } else {
                        libc::splice(pipe[0], none, to.number, none, length, libc::SPLICE_F_NONBLOCK);
                    }
                    libc::close(pipe[0]);
                    libc::close(pipe[1]);
                }
                _ => {}
            }
        }
    }

    /// Maps a file and uses it as memory, in a child: what lies beyond the end of the file ends the process.
    fn map(&mut self) {
        let Some(fd) = self.some_fd() else { return };
        // SAFETY: the child touches only the mapping, and ends.
        unsafe {
            if libc::fork() != 0 {
                return;
            }
            libc::signal(libc::SIGALRM, libc::SIG_DFL);
            libc::alarm(1);
            let shared = [libc::MAP_SHARED, libc::MAP_PRIVATE][self.random.below(2)];
            let writes = self.random.below(2) as i32 * libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), 65_536, libc::PROT_READ | writes, shared, fd.number, 0);
            if at != libc::MAP_FAILED {
                let bytes = std::slice::from_raw_parts_mut(at.cast::<u8>(), 65_536);
                if writes != 0 {
                    bytes[self.random.below(4096)] = b'w';
                }
                if !fd.passed {
                    self.look_at(&bytes[..4096], "mapping");
                }
                libc::msync(at, 65_536, libc::MS_SYNC);
                libc::munmap(at, 65_536);
            }
            libc::_exit(0);
        }
    }
}
