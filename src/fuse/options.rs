//! What `-o` can say: the words that other FUSE filesystems know, the queue configuration's keys, and a few of our own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::ValueEnum;
use rustix::mount::MountFlags;

use super::device::Transport;
use super::option_list;
use super::spin::SpinMode;
use crate::queue::config::{self, QueueConfig};
use crate::store::{BATCH_FILES, MOST_BATCH_FILES, UserLimits};

/// The subtype when none is asked for: the mount's type is `fuse.mqfs`.
pub const SUBTYPE: &str = "mqfs";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Who may use the mount at all, before any mode is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounted; the kernel sees to it.
    #[default]
    Owner,
    /// That user and root.
    AllowRoot,
    /// Everybody.
    AllowOther,
}

/// Everything that `-o` said.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The kernel's flags; `nodev` and `nosuid` whatever was asked for.
    pub flags: MountFlags,
    /// Who may use the mount.
    pub access: Access,
    /// Whether a watcher process unmounts when the serving process dies.
    pub auto_unmount: bool,
    /// Whether the mount point may hold files, which the mount hides.
    pub nonempty: bool,
    /// Whether the store may belong to somebody else.
    pub trust_owner: bool,
    /// The owner that everything is shown with.
    pub uid: Option<u32>,
    /// The group that everything is shown with.
    pub gid: Option<u32>,
    /// The mode bits that everything is shown without.
    pub umask: Option<u32>,
    /// The mount's source as df and findmnt show it; the store's path by default.
    pub fsname: Option<OsString>,
    /// What follows `fuse.` in the mount's type.
    pub subtype: String,
    /// Whether the reader of requests spins while they come thick.
    pub spin: SpinMode,
    /// By what way requests come.
    pub transport: Transport,
    /// Where log lines go.
    pub log_file: Option<PathBuf>,
    /// How log lines look.
    pub log_format: Option<LogFormat>,
    /// How much each user may have in the store.
    pub user_limits: UserLimits,
    /// How many files a batch may hold.
    pub batch_files: u64,
    /// The configuration of queues made at the top of the mount.
    pub queue_defaults: QueueConfig,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            flags: MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RELATIME,
            access: Access::default(),
            auto_unmount: false,
            nonempty: false,
            trust_owner: false,
            uid: None,
            gid: None,
            umask: None,
            fsname: None,
            subtype: SUBTYPE.to_owned(),
            spin: SpinMode::default(),
            transport: Transport::default(),
            log_file: None,
            log_format: None,
            user_limits: UserLimits::default(),
            batch_files: BATCH_FILES,
            queue_defaults: QueueConfig::default(),
        }
    }
}

/// Words that change the kernel's flags: what each sets and what it clears.
const FLAGS: &[(&str, MountFlags, MountFlags)] = {
    const NONE: MountFlags = MountFlags::empty();
    &[
        ("ro", MountFlags::RDONLY, NONE),
        ("rw", NONE, MountFlags::RDONLY),
        // mount(8) adds the first and the third of these for `defaults` and the like. There are no devices and no
        // set-user-ID programs in a mount, and whoever finds a way to show some is not to gain by it.
        ("dev", NONE, NONE),
        ("nodev", NONE, NONE),
        ("suid", NONE, NONE),
        ("nosuid", NONE, NONE),
        ("exec", NONE, MountFlags::NOEXEC),
        ("noexec", MountFlags::NOEXEC, NONE),
        ("atime", NONE, MountFlags::NOATIME),
        ("noatime", MountFlags::NOATIME, MountFlags::RELATIME),
        ("relatime", MountFlags::RELATIME, MountFlags::NOATIME),
        ("diratime", NONE, MountFlags::NODIRATIME),
        ("nodiratime", MountFlags::NODIRATIME, NONE),
        ("sync", MountFlags::SYNCHRONOUS, NONE),
        ("async", NONE, MountFlags::SYNCHRONOUS),
        ("dirsync", MountFlags::DIRSYNC, NONE),
    ]
};

/// The words of our own and of other FUSE filesystems that take no value.
const WORDS: &[&str] = &["allow_other", "allow_root", "auto_unmount", "nonempty", "trust_owner"];

/// The same with a value; besides them, the keys of the queue configuration.
const WITH_VALUE: &[&str] = &[
    "uid",
    "gid",
    "umask",
    "fsname",
    "subtype",
    "spin",
    "transport",
    "log_file",
    "log_format",
    "user_queues",
    "user_drafts",
    "user_bytes",
    "batch_files",
];

/// Words that are for mount(8), fstab and the boot, or that say what is so anyway (`default_permissions`).
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "nofail",
    "default_permissions",
    "silent",
    "loud",
];

/// The same with a value: `user=` and the helper names are what libmount writes for an ordinary user's mount.
const IGNORED_WITH_VALUE: &[&str] = &["user", "comment", "uhelper", "helper"];

/// Every word that `-o` knows, but for the keys of the queue configuration: what the manual has to explain.
pub fn names() -> impl Iterator<Item = &'static str> {
    let flags = FLAGS.iter().map(|(name, _, _)| *name);
    flags.chain([WORDS, WITH_VALUE, IGNORED, IGNORED_WITH_VALUE].into_iter().flatten().copied())
}

impl MountOptions {
    /// Reads the arguments of all `-o` in their order; of two that contradict each other the later counts. The error
    /// is the line for the user.
    pub fn parse<S: AsRef<OsStr>>(lists: &[S]) -> Result<MountOptions, String> {
        let mut options = MountOptions::default();
        for list in lists {
            for item in option_list::split(list.as_ref()) {
                options.apply(&item)?;
            }
        }
        Ok(options)
    }

    /// Whether nothing may be written or claimed.
    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    /// The mount's type as the kernel shows it.
    pub fn kind(&self) -> String {
        if self.subtype.is_empty() { "fuse".to_owned() } else { format!("fuse.{}", self.subtype) }
    }

    fn apply(&mut self, item: &OsStr) -> Result<(), String> {
        let bytes = item.as_bytes();
        match bytes.iter().position(|&byte| byte == b'=') {
            None => self.apply_word(item),
            Some(at) => self.apply_value(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])),
        }
    }

    fn apply_word(&mut self, word: &OsStr) -> Result<(), String> {
        let text = word.to_string_lossy();
        if let Some((_, set, clear)) = FLAGS.iter().find(|(name, _, _)| *name == text) {
            self.flags = (self.flags - *clear) | *set;
            return Ok(());
        }
        match text.as_ref() {
            "allow_other" => self.access = Access::AllowOther,
            "allow_root" => self.access = Access::AllowRoot,
            "auto_unmount" => self.auto_unmount = true,
            "nonempty" => self.nonempty = true,
            "trust_owner" => self.trust_owner = true,
            word if IGNORED.contains(&word) || word.starts_with("x-") || word.starts_with("X-") => {}
            word if takes_value(word) => return Err(format!("mount option `{word}` needs a value")),
            word => return Err(format!("unknown mount option `{word}`")),
        }
        Ok(())
    }

    fn apply_value(&mut self, key: &OsStr, value: &OsStr) -> Result<(), String> {
        let key = key.to_string_lossy();
        let text = value.to_string_lossy();
        let bad = |allowed: &str| format!("mount option `{key}={text}`: allowed is {allowed}");
        match key.as_ref() {
            "uid" => self.uid = Some(text.parse().map_err(|_| bad("the number of a user"))?),
            "gid" => self.gid = Some(text.parse().map_err(|_| bad("the number of a group"))?),
            "umask" => self.umask = Some(umask(&text).ok_or_else(|| bad("an octal number up to 0777"))?),
            "fsname" => self.fsname = Some(value.to_owned()),
            "subtype" => self.subtype = subtype(&text).ok_or_else(|| bad("letters, digits, `-`, `_` and `.`"))?,
            "transport" => {
                self.transport = Transport::from_str(&text, false).map_err(|_| bad("auto, uring or dev"))?;
            }
            "spin" => self.spin = SpinMode::from_str(&text, false).map_err(|_| bad("on, off or auto"))?,
            "log_file" => self.log_file = Some(PathBuf::from(OsString::from_vec(value.as_bytes().to_vec()))),
            "log_format" => {
                self.log_format = Some(LogFormat::from_str(&text, false).map_err(|_| bad("text or json"))?);
            }
            "user_queues" => self.user_limits.queues = text.parse().map_err(|_| bad("a number; 0 is no limit"))?,
            "user_drafts" => self.user_limits.drafts = text.parse().map_err(|_| bad("a number; 0 is no limit"))?,
            "user_bytes" => {
                self.user_limits.bytes = text.parse().map_err(|_| bad("a number of bytes; 0 is no limit"))?
            }
            "batch_files" => {
                let files = text.parse().ok().filter(|files| (1..=MOST_BATCH_FILES).contains(files));
                self.batch_files = files.ok_or_else(|| bad("a number from 1 to 100000"))?;
            }
            key if config::KEYS.contains(&key) => {
                self.queue_defaults.set(key, &text).map_err(|error| format!("mount option {error}"))?;
            }
            key if IGNORED_WITH_VALUE.contains(&key) || key.starts_with("x-") || key.starts_with("X-") => {}
            key if is_word(key) => return Err(format!("mount option `{key}` takes no value")),
            key => return Err(format!("unknown mount option `{key}`")),
        }
        Ok(())
    }
}

fn takes_value(word: &str) -> bool {
    WITH_VALUE.contains(&word) || config::KEYS.contains(&word)
}

fn is_word(key: &str) -> bool {
    WORDS.contains(&key) || IGNORED.contains(&key) || FLAGS.iter().any(|(name, _, _)| *name == key)
}

fn umask(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777 && !text.starts_with('+'))
}

/// The subtype becomes part of a word in `/proc/mounts` and of a mount option string, so nothing that ends one.
fn subtype(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes().all(plain).then(|| text.to_owned())
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
