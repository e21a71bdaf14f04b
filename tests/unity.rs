//! `scripts/unity-c++` compiles RocksDB in a few units, and whatever it does not know as the compiler does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const LIST: &str = "rocksdb_lib_sources.txt";

/// Where Cargo keeps the sources of the crate that builds RocksDB.
fn crate_dir() -> PathBuf {
    // What only other systems need was not fetched.
    let here = format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH);
    let ran =
        Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--offline", &here]).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran)));
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "librocksdb-sys").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn lines(path: impl AsRef<Path>) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn unused() -> BTreeSet<String> {
    lines("scripts/rocksdb-unused").into_iter().collect()
}

/// A crate with RocksDB's list of files, each of which defines one function. The last one is so long that all are one unit.
struct Sources {
    dir: TempDir,
    cache: PathBuf,
    used: Vec<String>,
    /// Where programs are looked for before the usual places.
    first_in_path: Option<PathBuf>,
    /// The compiler that somebody asks for.
    compiler: Option<&'static str>,
}

impl Sources {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unused = unused();
        fs::copy(crate_dir().join(LIST), dir.path().join(LIST)).unwrap();
        let used: Vec<String> =
            lines(dir.path().join(LIST)).into_iter().filter(|file| !unused.contains(file)).collect();
        let sources = Self { cache: dir.path().join("cache"), dir, used, first_in_path: None, compiler: None };
        for file in sources.used.iter().chain(&unused) {
            sources.write(file, &format!("int {}() {{ return 1; }}\n", function(file)));
        }
        sources.write_long(sources.used.last().unwrap(), 20_000);
        sources
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.dir.path().join("rocksdb").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn write_long(&self, file: &str, lines: usize) {
        let long = "// a line that is long\n".repeat(lines);
        self.write(file, &format!("{long}int {}() {{ return 1; }}\n", function(file)));
    }

    /// Compiles a file of RocksDB's as Cargo would.
    fn compile(&self, file: &str) -> Output {
        self.run(&format!("rocksdb/{file}"))
    }

    fn run(&self, path: &str) -> Output {
        self.run_with(&[], path)
    }

    fn run_with(&self, flags: &[&str], path: &str) -> Output {
        let usual = std::env::var("PATH").unwrap();
        let first = self.first_in_path.iter().map(|dir| format!("{}:", dir.display()));
        Command::new(fs::canonicalize("scripts/unity-c++").unwrap())
            .arg0("c++")
            .current_dir(&self.dir)
            .env_remove("TARGET")
            .env_remove("HOST")
            .env_remove("CXX")
            .envs(self.compiler.map(|compiler| ("CXX", compiler)))
            .env("PATH", first.collect::<String>() + &usual)
            .env("XDG_CACHE_HOME", &self.cache)
            .args(["-Irocksdb", "-ffunction-sections", "-o", "out.o"])
            .args(flags)
            .args(["-c", path])
            .output()
            .unwrap()
    }

    /// The objects that builds share.
    fn shared(&self) -> Vec<PathBuf> {
        let Ok(kept) = fs::read_dir(self.cache.join("mqfs/rocksdb")) else { return Vec::new() };
        kept.map(|entry| entry.unwrap().path()).collect()
    }

    /// The functions that the object defines which was compiled last.
    fn defined(&self) -> BTreeSet<String> {
        let ran = Command::new("nm").args(["-C", "--defined-only", "out.o"]).current_dir(&self.dir).output().unwrap();
        let text = String::from_utf8(ran.stdout).unwrap();
        text.lines().filter_map(|line| line.split(" T ").nth(1)?.strip_suffix("()")).map(str::to_owned).collect()
    }
}

fn function(file: &str) -> String {
    file.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn functions<'a>(files: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    files.into_iter().map(|file| function(file)).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

/// Else the build would be a slow one, and nobody would be told.
#[test]
fn the_sources_in_use_are_those_that_it_knows() {
    let sum = Command::new("cksum").stdin(fs::File::open(crate_dir().join(LIST)).unwrap()).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let script = fs::read_to_string("scripts/unity-c++").unwrap();
    assert!(script.contains(&format!("known='{}'", sum.trim())), "RocksDB's files are other ones now: {sum}");
    let all: BTreeSet<String> = lines(crate_dir().join(LIST)).into_iter().collect();
    assert!(unused().is_subset(&all), "{:?}", unused().difference(&all));
}

#[test]
fn the_first_of_a_unit_has_all_of_it_and_the_others_nothing() {
    let sources = Sources::new();
    succeeds(&sources.compile(&sources.used[0]));
    assert_eq!(sources.defined(), functions(&sources.used));
    for file in [&sources.used[1], sources.used.last().unwrap(), unused().last().unwrap()] {
        succeeds(&sources.compile(file));
        assert_eq!(sources.defined(), BTreeSet::new(), "{file}");
    }
}

#[test]
fn every_file_is_in_one_unit_when_there_are_several() {
    let sources = Sources::new();
    for file in sources.used.iter().skip(7).step_by(100) {
        sources.write_long(file, 70_000);
    }
    let mut seen = BTreeSet::new();
    let mut units = 0;
    let around = |at: usize| [at.saturating_sub(1), at, at + 1];
    let firsts: BTreeSet<usize> =
        (0..sources.used.len()).filter(|at| at % 100 == 7).flat_map(around).chain([0]).collect();
    for at in firsts {
        succeeds(&sources.compile(&sources.used[at]));
        let defined = sources.defined();
        assert!(defined.is_disjoint(&seen), "{:?} twice", defined.intersection(&seen));
        units += usize::from(!defined.is_empty());
        seen.extend(defined);
    }
    assert_eq!(seen, functions(&sources.used));
    assert!(units > 3, "{units}");
}

#[test]
fn a_unit_that_does_not_compile_is_compiled_file_by_file_and_says_so() {
    let sources = Sources::new();
    for file in &sources.used[1..3] {
        sources.write(
            file,
            &format!(
                "namespace {{ struct Twice {{ int {0}; }}; }}\nint {0}() {{ return Twice().{0}; }}\n",
                function(file)
            ),
        );
    }
    let ran = sources.compile(&sources.used[0]);
    succeeds(&ran);
    assert!(text(&ran).contains("compiled one by one"), "{}", text(&ran));
    assert_eq!(sources.defined(), functions(&sources.used));
}

#[test]
fn an_error_of_the_compiler_is_one_of_its_own() {
    let sources = Sources::new();
    sources.write(&sources.used[2], "int broken( {\n");
    let ran = sources.compile(&sources.used[0]);
    assert!(!ran.status.success());
    assert!(text(&ran).contains(&sources.used[2]), "{}", text(&ran));
}

#[test]
fn what_it_does_not_know_is_compiled_as_it_is() {
    let sources = Sources::new();
    let itself = BTreeSet::from([function(&sources.used[0])]);
    sources.write("elsewhere.cc", "int elsewhere() { return 1; }\n");
    for path in ["rocksdb/elsewhere.cc", "./rocksdb/elsewhere.cc"] {
        succeeds(&sources.run(path));
        assert_eq!(sources.defined(), BTreeSet::from(["elsewhere".to_owned()]), "{path}");
    }

    let list = sources.dir.path().join(LIST);
    fs::write(&list, format!("{}new.cc\n", fs::read_to_string(&list).unwrap())).unwrap();
    succeeds(&sources.compile(&sources.used[0]));
    assert_eq!(sources.defined(), itself);

    fs::remove_file(&list).unwrap();
    succeeds(&sources.compile(&sources.used[0]));
    assert_eq!(sources.defined(), itself);
}

/// As other clones, `cargo install` and packages do.
#[test]
fn builds_elsewhere_take_the_object_of_the_same_text_and_no_other() {
    let mut sources = Sources::new();
    let first = sources.used[0].clone();
    succeeds(&sources.compile(&first));
    let [object] = &sources.shared()[..] else { panic!("{:?}", sources.shared()) };
    let theirs = sources.dir.path().join("theirs");
    fs::write(&theirs, "an object of another build").unwrap();
    let zipped = Command::new("gzip").arg("-c").arg(&theirs).output().unwrap().stdout;
    fs::write(object, zipped).unwrap();

    let other = Sources { cache: sources.cache.clone(), ..Sources::new() };
    let out = other.dir.path().join("out.o");
    succeeds(&other.compile(&first));
    assert_eq!(fs::read(&out).unwrap(), fs::read(&theirs).unwrap());

    succeeds(&other.run_with(&["-O1"], &format!("rocksdb/{first}")));
    assert_eq!(other.defined(), functions(&other.used), "with other arguments");
    other.write("of.h", "int another() { return 1; }\n");
    other.write(&first, &format!("#include \"of.h\"\nint {}() {{ return 1; }}\n", function(&first)));
    succeeds(&other.compile(&first));
    assert!(other.defined().contains("another"));
    other.write("of.h", "int yet_another() { return 1; }\n");
    succeeds(&other.compile(&first));
    assert!(other.defined().contains("yet_another"), "the text that it includes is another");
    assert_eq!(other.shared().len(), 4);

    fs::write(object, "damaged").unwrap();
    succeeds(&sources.compile(&first));
    assert_eq!(sources.defined(), functions(&sources.used), "of what is damaged");

    sources.cache = "/proc/nowhere".into();
    succeeds(&sources.compile(&first));
    assert_eq!(sources.defined(), functions(&sources.used), "where nothing can be kept");
}

/// What made the object that was compiled last, as it says itself.
fn maker(sources: &Sources) -> String {
    let ran = Command::new("readelf").args(["-p", ".comment", "out.o"]).current_dir(&sources.dir).output().unwrap();
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn clang_compiles_the_units_where_it_can_and_the_usual_compiler_the_rest() {
    let mut sources = Sources::new();
    succeeds(&sources.compile(&sources.used[0]));
    assert!(maker(&sources).contains("clang"), "{}", maker(&sources));
    succeeds(&sources.compile(&sources.used[1]));
    assert!(maker(&sources).contains("GCC") && !maker(&sources).contains("clang"), "{}", maker(&sources));

    // There is one, but it has no C++ library, as happens.
    let without = sources.dir.path().join("without");
    fs::create_dir(&without).unwrap();
    std::os::unix::fs::symlink("/bin/false", without.join("clang++")).unwrap();
    sources.first_in_path = Some(without);
    succeeds(&sources.compile(&sources.used[0]));
    assert_eq!(sources.defined(), functions(&sources.used));
    assert!(maker(&sources).contains("GCC") && !maker(&sources).contains("clang"), "{}", maker(&sources));
}

#[test]
fn a_compiler_that_is_asked_for_gets_each_file_as_it_is() {
    let sources = Sources { compiler: Some("env c++"), ..Sources::new() };
    for file in &sources.used[..2] {
        succeeds(&sources.compile(file));
        assert_eq!(sources.defined(), functions([file]));
    }
}

/// What Cargo is told to call, in this clone and with a space in its path.
#[test]
fn cargo_calls_it_wherever_the_clone_is() {
    let config = fs::read_to_string(".cargo/config.toml").unwrap();
    let calls: Vec<_> = config.lines().filter_map(|line| line.split_once("_CXX = '")?.1.strip_suffix('\'')).collect();
    let [call, of_target] = calls[..] else { panic!("{calls:?}") };
    assert_eq!(call, of_target);
    let dir = tempfile::tempdir().unwrap();
    let clone = dir.path().join("a clone/scripts");
    fs::create_dir_all(&clone).unwrap();
    for file in ["unity-c++", "rocksdb-unused"] {
        fs::copy(Path::new("scripts").join(file), clone.join(file)).unwrap();
    }
    fs::write(dir.path().join("it is.cc"), "int it_is() { return 1; }\n").unwrap();
    let mut words = call.split_whitespace();
    let ran = Command::new(words.next().unwrap())
        .args(words)
        .args(["-o", "it is.o", "-c", "it is.cc"])
        .current_dir(&dir)
        .env("MQFS_UNITY_CXX", clone.join("unity-c++"))
        .env_remove("CXX")
        .output()
        .unwrap();
    succeeds(&ran);
    assert!(dir.path().join("it is.o").exists());
}
