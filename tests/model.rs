//! A real mount against the reference model of `tests/model`: random operations by ordinary system calls, with clean ends and
//! crashes in between. The mount lives by a clock that the test turns, so that hours pass in no time.
//!
//! `MQFS_TEST_FULL=1` does many more of them; `PROPTEST_CASES` says how many. A sequence that shows a difference is to be kept
//! here, or in `src/store/model_tests.rs`, as a test with a name, as `one_operation_after_the_other` is.

mod common;
#[path = "model/mod.rs"]
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use common::*;
use model::drive::{Drive, Looks, System, random};
use model::ops::{BEGINNINGS, HOUR, NOON, QUEUES, WORKERS, tour};
use model::{Answer, Body, End, Feed, Message, Place, Props, Refusal, Settle, State, Tag, Worker, said};
use tempfile::NamedTempFile;

struct Mounted {
    mount: Mount,
    now: u64,
    round: usize,
    /// A round has begun and not ended.
    busy: bool,
    writers: BTreeMap<Tag, (usize, File)>,
    drafts: BTreeMap<Tag, PathBuf>,
    /// Messages that were given another name than theirs is by default.
    names: BTreeMap<Tag, String>,
    /// The paths of deliveries, by the model's numbers.
    noted: BTreeMap<u64, PathBuf>,
    workers: [Shell; WORKERS],
}

fn refused<T>(result: io::Result<T>) -> Answer<T> {
    result.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Refusal::NotFound,
        Some(libc::EDQUOT) => Refusal::Full,
        Some(libc::EAGAIN) => Refusal::Again,
        Some(libc::EPERM) => Refusal::Foreign,
        Some(libc::EIO) => Refusal::Dropped,
        Some(libc::ESTALE) => Refusal::Moved,
        _ => panic!("{error}"),
    })
}

/// What `touch -c` does.
fn touch(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string; no times mean now.
    match unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// close(2), and what it says.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was the file's, and is nobody's now.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn rfc3339(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// `key=value` for what the properties say.
fn words(props: Props) -> Vec<(&'static str, String)> {
    let all = [
        ("priority", props.priority > 0, props.priority.to_string()),
        ("delay", props.delay > 0, format!("{}ms", props.delay)),
        ("deliver_at", props.deliver_at > 0, rfc3339(props.deliver_at)),
        ("ttl", props.ttl > 0, format!("{}ms", props.ttl)),
        ("id", props.id > 0, format!("id{}", props.id)),
    ];
    all.into_iter().filter(|(_, said, _)| *said).map(|(word, _, value)| (word, value)).collect()
}

/// What a mark is; 0 is empty.
fn mark_text(is: u8) -> String {
    if is == 0 { String::new() } else { is.to_string() }
}

/// A shell in a session of its own, which lives on while the mount ends and starts again: what it starts shares no claim with the
/// test, nor with what another shell starts.
struct Shell {
    process: Child,
    answers: BufReader<ChildStdout>,
    /// What its commands complain of.
    errors: NamedTempFile,
}

impl Shell {
    fn new() -> Shell {
        let mut shell = Command::new("bash");
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: setsid is async-signal-safe.
        unsafe {
            shell.pre_exec(|| match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let mut process = shell.spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Shell { process, answers, errors: NamedTempFile::new().unwrap() }
    }

    /// Runs a command, which is the shell's own child, on a file.
    fn run(&mut self, command: &str, path: &Path) -> Answer<()> {
        let line =
            format!("{command} '{}' > /dev/null 2> '{}'; echo $?\n", path.display(), self.errors.path().display());
        self.process.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        let mut code = String::new();
        self.answers.read_line(&mut code).unwrap();
        let told = fs::read_to_string(self.errors.path()).unwrap();
        match code.trim_end() {
            "0" => Ok(()),
            _ if told.contains("No such file") => Err(Refusal::NotFound),
            _ if told.contains("temporarily unavailable") => Err(Refusal::Again),
            code => panic!("{command} {}: {code}: {told}", path.display()),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A clock that stands still, in the middle of a millisecond.
fn clock(ms: u64) -> String {
    format!("{}.{:03}5", ms / 1000, ms % 1000)
}

fn tag_of(name: &str) -> Tag {
    let name = name.rsplit(['-', '/']).next().unwrap();
    name[1..].parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What `user.mq.deaths` tells.
fn deaths_of(json: &str) -> Vec<(String, String, u32, u64, u64)> {
    let deaths: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    let entry = |death: &serde_json::Value| {
        let text = |key: &str| death[key].as_str().unwrap().to_owned();
        let time = |key: &str| {
            let instant = humantime::parse_rfc3339(&text(key)).unwrap();
            instant.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
        };
        let count = death["count"].as_u64().unwrap() as u32;
        (text("queue"), text("reason"), count, time("first"), time("last"))
    };
    deaths.iter().map(entry).collect()
}

fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Delayed => "delayed",
        State::Claimed => "claimed",
        State::Dead => "dead",
    }
}

impl Mounted {
    fn new() -> Mounted {
        let mount = Mount::with_clock(&clock(NOON));
        mount.queue_with("clock", &["durability=async"]);
        Mounted {
            mount,
            now: NOON,
            round: 0,
            busy: false,
            writers: BTreeMap::new(),
            drafts: BTreeMap::new(),
            names: BTreeMap::new(),
            noted: BTreeMap::new(),
            workers: std::array::from_fn(|_| Shell::new()),
        }
    }

    fn dir(&self, queue: usize) -> PathBuf {
        self.mount.path().join(self.path(queue))
    }

    fn state_dir(&self, queue: usize, state: State) -> PathBuf {
        let dir = self.dir(queue);
        if state == State::Ready { dir } else { dir.join(".mq").join(word(state)) }
    }

    /// Where to create a file with these properties.
    fn with(&self, queue: usize, props: Props) -> PathBuf {
        let words: Vec<String> = words(props).into_iter().map(|(word, value)| format!("{word}={value}")).collect();
        let dir = self.dir(queue);
        if words.is_empty() { dir } else { dir.join(".mq/with").join(words.join(",")) }
    }

    /// The name that a message was given.
    fn name(&self, tag: Tag) -> String {
        self.names.get(&tag).cloned().unwrap_or_else(|| format!("m{tag}"))
    }

    /// The path of a message in the directory of its state.
    fn find(&self, queue: usize, state: State, tag: Tag) -> PathBuf {
        let dir = self.state_dir(queue, state);
        let name = listing(&dir).into_iter().find(|name| !name.starts_with('.') && tag_of(name) == tag);
        dir.join(name.unwrap_or_else(|| panic!("message {tag} is not in {}", dir.display())))
    }

    /// The path of the delivery of a message, or when it has none of one that is over.
    fn settles(&self, message: &Message) -> String {
        let path = self.find(message.queue, message.state, message.tag);
        let told = xattr(&path, "user.mq.delivery");
        told.unwrap_or_else(|| format!(".mq/claimed/{}.0000000000", xattr(&path, "user.mq.seq").unwrap()))
    }

    /// Reads one of `.mq/claim` and `.mq/pop`.
    fn read_control(&self, queue: usize, name: &str) -> Answer<String> {
        let path = self.dir(queue).join(".mq").join(name);
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let mut text = String::new();
        refused(file.read_to_string(&mut text))?;
        close(file).unwrap();
        Ok(text)
    }
}

impl System for Mounted {
    const CAN_BE_LATE: bool = false;
    const SEES_LEAPS: bool = true;

    fn begin(&mut self) -> u64 {
        self.round += 1;
        self.busy = true;
        for (queue, keys) in BEGINNINGS.iter().enumerate() {
            fs::create_dir(self.dir(queue)).unwrap();
            self.set(queue, keys);
        }
        self.now
    }

    fn finish(&mut self) {
        for queue in 0..QUEUES {
            fs::write(self.dir(queue).join(".mq/purge"), "all").unwrap();
            fs::remove_dir(self.dir(queue)).unwrap();
        }
        self.drafts.clear();
        self.names.clear();
        self.set_clock(self.now + 24 * HOUR, true);
        self.busy = false;
    }

    fn set_clock(&mut self, now: u64, due: bool) {
        if !due {
            self.mount.set_clock(&clock(now));
        } else {
            // Whoever sleeps until this message is due looks at the clock again at once, not only when the next look is due.
            fs::write(self.mount.path().join("clock/.mq/with/delay=1ms/tick"), "tick").unwrap();
            self.mount.set_clock(&clock(now));
            let tick = || fs::read_dir(self.mount.path().join("clock")).unwrap().count() > 0;
            wait_until(tick);
            fs::write(self.mount.path().join("clock/.mq/purge"), "all").unwrap();
        }
        self.now = now;
    }

    fn open(&mut self, queue: usize, tag: Tag, props: Props) -> Answer<()> {
        let path = self.with(queue, props).join(format!("m{tag}"));
        let file = refused(OpenOptions::new().write(true).create_new(true).open(path))?;
        self.writers.insert(tag, (queue, file));
        Ok(())
    }

    fn write(&mut self, tag: Tag, at: usize, bytes: &str) -> Answer<()> {
        let written = refused(self.writers[&tag].1.write_all_at(bytes.as_bytes(), at as u64));
        if written.is_err() {
            let (_, file) = self.writers.remove(&tag).unwrap();
            assert_eq!(errno(close(file)), libc::EDQUOT);
        }
        written
    }

    fn flush(&mut self, tag: Tag) -> Answer<()> {
        refused(close(self.writers[&tag].1.try_clone().unwrap()))
    }

    fn close(&mut self, tag: Tag) -> Answer<()> {
        let (_, file) = self.writers.remove(&tag).unwrap();
        refused(close(file))
    }

    fn end(&mut self, tag: Tag, at: usize, bytes: &str, end: End, counts: bool) -> Answer<()> {
        const REFUSED: i32 = 9;
        let mut file = &self.writers[&tag].1;
        file.seek(io::SeekFrom::Start(at as u64)).unwrap();
        let ends = match end {
            End::Killed => "kill -9 $$",
            End::Failed => "exit 1",
            End::Well => "exit 0",
        };
        let mut process = Command::new("sh");
        process.args(["-c", &format!("printf %s \"$1\" || exit {REFUSED}; {ends}"), "sh", bytes]).stderr(Stdio::null());
        let descriptor = file.as_raw_fd();
        // This process, which opened the file, must not close any of it: that would promise the message.
        // SAFETY: dup2 is async-signal-safe.
        unsafe {
            process.pre_exec(move || match libc::dup2(descriptor, 1) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let ended = process.status().unwrap();
        if ended.code() == Some(REFUSED) {
            assert_eq!(self.close(tag), Err(Refusal::Full));
            return Err(Refusal::Full);
        }
        if counts && end == End::Killed {
            assert_eq!(self.close(tag), Err(Refusal::Dropped));
        }
        Ok(())
    }

    fn unlink(&mut self, tag: Tag) -> bool {
        let (queue, mut file) = self.writers.remove(&tag).unwrap();
        fs::remove_file(self.dir(queue).join(self.name(tag))).unwrap();
        file.write_all(b"more").unwrap();
        close(file).unwrap();
        true
    }

    fn name_anew(&mut self, tag: Tag) -> bool {
        let (dir, new) = (self.dir(self.writers[&tag].0), format!("anew-m{tag}"));
        let renamed = refused(fs::rename(dir.join(self.name(tag)), dir.join(&new)));
        self.names.insert(tag, new);
        renamed.unwrap();
        true
    }

    fn chmod(&mut self, queue: usize, tag: Tag) -> Option<Answer<()>> {
        let path = self.dir(queue).join(self.name(tag));
        Some(refused(fs::set_permissions(path, Permissions::from_mode(0o600))))
    }

    fn line(&mut self, _queue: usize, _tag: Tag, _text: &str) -> Option<Answer<()>> {
        None // nothing in a line's name says which it is
    }

    fn draft(&mut self, queue: usize, tag: Tag, text: &str, props: Props) {
        let name = format!(".d{tag}");
        fs::write(self.with(queue, props).join(&name), text).unwrap();
        self.drafts.insert(tag, self.dir(queue).join(name));
    }

    fn publish(&mut self, draft: Tag, (queue, tag): (usize, Tag), link: bool, settles: Option<&Message>) -> Answer<()> {
        let (from, to) = (&self.drafts[&draft], self.dir(queue).join(format!("m{tag}")));
        if let Some(message) = settles {
            set_xattr(from, "user.mq.settles", self.settles(message)).unwrap();
        }
        let published = refused(if link { fs::hard_link(from, to) } else { fs::rename(from, to) });
        if settles.is_some() && (link || published.is_err()) {
            remove_xattr(from, "user.mq.settles").unwrap();
        }
        published?;
        if !link {
            self.drafts.remove(&draft);
        }
        Ok(())
    }

    fn discard(&mut self, draft: Tag) {
        fs::remove_file(self.drafts.remove(&draft).unwrap()).unwrap();
    }

    fn batch(
        &mut self,
        queue: usize,
        files: &[(Tag, Body, Props)],
        feed: Option<Feed>,
        settles: Option<&Message>,
    ) -> Answer<()> {
        let batch = self.dir(queue).join(".mq/batch/b");
        fs::create_dir(&batch).unwrap();
        if let Some(Feed { mark, is, was }) = feed {
            set_xattr(&batch, &format!("user.mark.m{mark}"), mark_text(is)).unwrap();
            if let Some(was) = was {
                set_xattr(&batch, &format!("user.mark-was.m{mark}"), mark_text(was)).unwrap();
            }
        }
        if let Some(message) = settles {
            set_xattr(&batch, "user.mq.settles", self.settles(message)).unwrap();
        }
        for (tag, body, props) in files {
            let path = batch.join(format!("m{tag:06}"));
            fs::write(&path, body.text()).unwrap();
            for (word, value) in words(*props) {
                let word = if word == "id" { "dedup_id" } else { word };
                set_xattr(&path, &format!("user.mq.{word}"), value).unwrap();
            }
        }
        let enqueued = refused(fs::rename(&batch, self.dir(queue).join("b")));
        if enqueued.is_err() {
            assert_eq!(listing(&batch).len(), files.len(), "all or none");
            fs::remove_dir_all(&batch).unwrap();
        }
        enqueued
    }

    fn set_mark(&mut self, queue: usize, mark: u8, is: u8) {
        let (dir, name) = (self.dir(queue), format!("user.mark.m{mark}"));
        match is {
            0 => drop(remove_xattr(dir, &name)),
            is => set_xattr(dir, &name, mark_text(is)).unwrap(),
        }
    }

    fn marks(&mut self, queue: usize) -> BTreeMap<u8, u8> {
        let dir = self.dir(queue);
        let of = |name: String| {
            let mark = name.strip_prefix("user.mark.m")?.parse().unwrap();
            let is = xattr(&dir, &name).unwrap().parse().unwrap_or(0);
            (is != 0).then_some((mark, is))
        };
        xattrs(&dir).into_iter().filter_map(of).collect()
    }

    fn take(&mut self, queue: usize) -> Answer<Tag> {
        let path = self.read_control(queue, "claim")?;
        let path = self.dir(queue).join(path.trim_end());
        Ok(tag_of(&xattr(path, "user.mq.name").unwrap()))
    }

    fn pop(&mut self, queue: usize) -> Answer<String> {
        self.read_control(queue, "pop")
    }

    fn read(&mut self, message: &Message) -> Answer<String> {
        let mut file = refused(File::open(self.find(message.queue, State::Ready, message.tag)))?;
        let mut text = String::new();
        // Where names are kept, the process that wrote a message claims it at its first read.
        refused(file.read_to_string(&mut text))?;
        close(file).unwrap();
        Ok(text)
    }

    fn rename(&mut self, message: &Message, to: Place) -> Answer<()> {
        let from = self.find(message.queue, message.state, message.tag);
        let to = match to {
            Place::Queue(other) if other != message.queue => {
                let to = self.dir(other).join(format!("m{}", message.tag));
                let moved = refused(fs::rename(from, to));
                if moved.is_ok() {
                    self.names.remove(&message.tag);
                }
                return moved;
            }
            Place::Queue(own) => self.dir(own).join(from.file_name().unwrap()),
            Place::Claimed => self.state_dir(message.queue, State::Claimed).join(from.file_name().unwrap()),
            Place::Delayed => self.state_dir(message.queue, State::Delayed).join(from.file_name().unwrap()),
            Place::Dead => self.state_dir(message.queue, State::Dead).join(from.file_name().unwrap()),
        };
        refused(fs::rename(from, to))
    }

    fn ack(&mut self, message: &Message) {
        fs::remove_file(self.find(message.queue, message.state, message.tag)).unwrap();
    }

    fn renew(&mut self, message: &Message) {
        let path = self.find(message.queue, State::Claimed, message.tag);
        let touched = Command::new("touch").arg("-c").arg(path).status().unwrap();
        assert!(touched.success());
    }

    fn work(&mut self, message: &Message, worker: Worker) -> Answer<()> {
        let path = self.find(message.queue, message.state, message.tag);
        self.workers[worker].run("cat", &path)
    }

    fn finish_work(&mut self, message: &Message, worker: Worker) -> Option<Answer<()>> {
        let path = self.find(message.queue, message.state, message.tag);
        let path = self.dir(message.queue).join(path.file_name().unwrap());
        Some(self.workers[worker].run("rm", &path))
    }

    fn note(&mut self, message: &Message) {
        let path = xattr(self.find(message.queue, message.state, message.tag), "user.mq.delivery").unwrap();
        self.noted.insert(message.delivery, self.dir(message.queue).join(path));
    }

    fn settle(&mut self, delivery: u64, how: Settle) -> Answer<()> {
        let path = &self.noted[&delivery];
        let name = path.file_name().unwrap();
        let control = path.parent().unwrap().parent().unwrap();
        refused(match how {
            Settle::Ack => fs::remove_file(path),
            Settle::Now => fs::rename(path, control.parent().unwrap().join(name)),
            Settle::Later => fs::rename(path, control.join("delayed").join(name)),
            Settle::Dead => fs::rename(path, control.join("dead").join(name)),
            Settle::Renew => touch(path),
            Settle::Say(number) => set_xattr(path, "user.mq.last_error", said(number)),
        })
    }

    fn say(&mut self, message: &Message, said: &str) {
        let path = self.find(message.queue, message.state, message.tag);
        set_xattr(path, "user.mq.last_error", said).unwrap();
    }

    fn nack(&mut self, message: &Message, how: model::Nack, said: &str) -> Answer<()> {
        let path = self.find(message.queue, State::Claimed, message.tag);
        let how = match how {
            model::Nack::Now => "now".to_owned(),
            model::Nack::Later => "later".to_owned(),
            model::Nack::In(ms) => format!("{ms}ms"),
            model::Nack::Uncounted => "uncounted".to_owned(),
            model::Nack::Dead => "dead".to_owned(),
        };
        let line = format!("{how} {}\n{said}", path.file_name().unwrap().to_str().unwrap());
        refused(fs::write(self.dir(message.queue).join(".mq/nack"), line))
    }

    fn purge(&mut self, queue: usize, states: &[State], _clear: bool) {
        let words: Vec<&str> = states.iter().copied().map(word).collect();
        fs::write(self.dir(queue).join(".mq/purge"), words.join(" ")).unwrap();
    }

    fn set(&mut self, queue: usize, line: &str) {
        fs::write(self.dir(queue).join(".mq/config"), line).unwrap();
    }

    fn path(&self, queue: usize) -> String {
        format!("q{queue}-{}", self.round)
    }

    fn restart(&mut self, crash: bool) {
        if crash {
            self.mount.kill9();
            self.writers.clear();
            self.mount.start();
        } else {
            self.mount.remount();
        }
    }

    fn list(&mut self, queue: usize, state: State) -> Vec<Tag> {
        let names = listing(self.state_dir(queue, state));
        names.iter().filter(|name| !name.starts_with('.')).map(|name| tag_of(name)).collect()
    }

    fn look_at(&mut self, queue: usize, state: State, tag: Tag) -> Looks {
        let path = self.find(queue, state, tag);
        let name = path.file_name().unwrap();
        let path = self.dir(queue).join(".mq/peek").join(name);
        let text = |name: &str| xattr(&path, &format!("user.mq.{name}"));
        let time = |name: &str| {
            let instant = text(name).map(|instant| humantime::parse_rfc3339(&instant).unwrap());
            instant.map_or(0, |instant| instant.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
        };
        assert_eq!(text("state").as_deref(), Some(word(state)));
        Looks {
            body: fs::read_to_string(&path).unwrap(),
            deliveries: text("deliveries").unwrap().parse().unwrap(),
            due: time("due"),
            expires: time("expires"),
            lease: time("deadline"),
            died: text("dead_reason").map(|why| (why, text("dead_deliveries").unwrap().parse().unwrap())),
            deaths: text("deaths").map(|deaths| deaths_of(&deaths)).unwrap_or_default(),
            last_error: text("last_error"),
        }
    }

    fn stats(&mut self, queue: usize) -> BTreeMap<String, u64> {
        let stats = self.mount.stats(self.dir(queue));
        // Not what is set.
        let numbers = stats.as_object().unwrap().iter().filter(|(name, _)| !name.starts_with("max_"));
        numbers.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect()
    }
}

#[test]
fn random_operations_do_what_the_model_says() {
    let mounted = RefCell::new(Mounted::new());
    random(20, 60, |ops| {
        let mut mounted = mounted.borrow_mut();
        if mounted.busy {
            *mounted = Mounted::new(); // the one before has failed
        }
        Drive::run(&mut *mounted, ops, 10);
    });
}

#[test]
fn one_operation_after_the_other() {
    Drive::run(&mut Mounted::new(), &tour(), 1);
}
