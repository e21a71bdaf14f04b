use std::time::Duration;

use super::*;

fn parse(list: &str) -> MountOptions {
    MountOptions::parse(&[list]).unwrap_or_else(|error| panic!("{list}: {error}"))
}

fn refusal(list: &str) -> String {
    match MountOptions::parse(&[list]) {
        Ok(options) => panic!("{list} was taken: {options:?}"),
        Err(line) => line,
    }
}

#[test]
fn without_options_a_mount_is_private_and_safe() {
    let options = parse("");
    assert_eq!(options.flags, MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RELATIME);
    assert_eq!(options.access, Access::Owner);
    assert_eq!(options.kind(), "fuse.mqfs");
    assert!(!options.read_only() && !options.nonempty && !options.auto_unmount);
}

#[test]
fn the_later_of_two_contradicting_words_counts() {
    assert!(parse("rw,ro").read_only());
    assert!(!parse("ro,rw").read_only());
    let both = MountOptions::parse(&["ro,noexec", "rw"]).unwrap();
    assert!(!both.read_only() && both.flags.contains(MountFlags::NOEXEC));
}

#[test]
fn what_mount_and_fstab_pass_through_is_ignored() {
    let list = "rw,defaults,auto,noauto,user,users,nouser,owner,group,_netdev,nofail,x-systemd.automount,\
                x-foo=bar,X-mount.mkdir,comment=some text,user=somebody,uhelper=fuse,default_permissions";
    assert_eq!(format!("{:?}", parse(list)), format!("{:?}", parse("")));
}

/// mount(8) adds `dev,suid` for a line of fstab that says `defaults,users` and the like.
#[test]
fn nothing_makes_devices_and_set_user_id_programs_work() {
    for list in ["dev,suid", "nodev,nosuid,dev,suid", "rw,suid,dev,exec"] {
        assert!(parse(list).flags.contains(MountFlags::NODEV | MountFlags::NOSUID), "{list}");
    }
}

#[test]
fn values_are_read() {
    let options = parse(r#"uid=12,gid=34,umask=027,fsname="a,b",subtype=jobs,spin=off,log_file=/x\,y,log_format=json"#);
    assert_eq!((options.uid, options.gid, options.umask), (Some(12), Some(34), Some(0o027)));
    assert_eq!(options.fsname.as_deref(), Some(OsStr::new("a,b")));
    assert_eq!(options.kind(), "fuse.jobs");
    assert_eq!(options.spin, SpinMode::Off);
    assert_eq!((options.batch_files, parse("batch_files=100000").batch_files), (10_000, 100_000));
    assert_eq!(options.log_file.as_deref(), Some(std::path::Path::new("/x,y")));
    assert_eq!(options.log_format, Some(LogFormat::Json));
}

#[test]
fn every_configuration_key_is_an_option() {
    for key in config::KEYS {
        let value = QueueConfig::default().get(key).unwrap();
        assert_eq!(parse(&format!("{key}={value}")).queue_defaults, QueueConfig::default(), "{key}");
        assert_eq!(refusal(key), format!("mount option `{key}` needs a value"));
    }
    assert_eq!(parse("visibility_timeout=5m").queue_defaults.visibility_timeout, Duration::from_secs(300));
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(refusal("ro,frobnicate"), "unknown mount option `frobnicate`");
    assert_eq!(refusal("frobnicate=3"), "unknown mount option `frobnicate`");
    assert_eq!(refusal("ro=1"), "mount option `ro` takes no value");
    assert_eq!(refusal("uid"), "mount option `uid` needs a value");
    assert_eq!(refusal("uid=root"), "mount option `uid=root`: allowed is the number of a user");
    for none in ["0", "100001", "-1", "many"] {
        let line = refusal(&format!("batch_files={none}"));
        assert_eq!(line, format!("mount option `batch_files={none}`: allowed is a number from 1 to 100000"));
    }
    assert_eq!(refusal("umask=8"), "mount option `umask=8`: allowed is an octal number up to 0777");
    assert_eq!(refusal("subtype=a b"), "mount option `subtype=a b`: allowed is letters, digits, `-`, `_` and `.`");
    let line = refusal("max_deliveries=many");
    assert!(line.contains("max_deliveries") && line.contains("many") && line.contains("allowed is"), "{line}");
}

#[test]
fn every_name_is_known() {
    for name in names() {
        let unknown = format!("unknown mount option `{name}`");
        let taken = |item: String| MountOptions::parse(&[item]).err().is_none_or(|line| line != unknown);
        assert!(taken(name.to_owned()) || taken(format!("{name}=1")), "{name}");
    }
}
