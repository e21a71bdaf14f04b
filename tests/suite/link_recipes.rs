//! The examples and recipes of mqfs-link(1), run as they stand on the page, with real servers: only paths, hosts and waits are those of
//! the test.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::*;
use crate::manual::{HANDLE, program, recipe};
use crate::{kafka, rabbit};

/// A mount that stands where the page has `/srv/mq`, with links described where it has `/etc/mqfs/link`, and programs on the path.
struct Place {
    mount: Mount,
    /// Pairs of what the page has and what the test has.
    here: Vec<(String, String)>,
}

impl Place {
    fn new(here: &[(&str, &str)]) -> Place {
        let mount = Mount::new();
        let (bin, links) = (mount.scratch().join("bin"), mount.scratch().join("link"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), bin.join("mqfs")).unwrap();
        program(&bin.join("handle"), HANDLE);
        let mut all = vec![
            ("/srv/mq".to_owned(), mount.path().display().to_string()),
            ("/etc/mqfs/link".to_owned(), links.display().to_string()),
        ];
        all.extend(here.iter().map(|(page, test)| ((*page).to_owned(), (*test).to_owned())));
        Place { mount, here: all }
    }

    fn as_here(&self, text: &str) -> String {
        self.here.iter().fold(text.to_owned(), |text, (page, test)| text.replace(page, test))
    }

    /// What the page has, as a script of this place.
    fn script(&self, begins: &str) -> String {
        self.code(&recipe(begins))
    }

    fn code(&self, code: &str) -> String {
        format!("export PATH=$T/bin:$PATH XDG_RUNTIME_DIR=$T\n{}", self.as_here(code))
    }

    /// Writes a link's file, as the page has it, and what only this place needs.
    fn describe(&self, name: &str, begins: &str, more: &str) {
        let text = self.as_here(&recipe(begins)) + more;
        fs::write(self.mount.scratch().join(format!("link/{name}.conf")), text).unwrap();
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.mount.scratch().join(format!("link/{name}.secret"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn handled(&self) -> Vec<String> {
        let text = fs::read_to_string(self.mount.scratch().join("handled")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// `HOST:PORT` of a URL.
fn authority(url: &str) -> String {
    url.split_once("://").unwrap().1.trim_end_matches('/').to_owned()
}

#[test]
fn a_link_from_cron_and_what_it_promises() {
    let rabbit = rabbit::shared();
    rabbit.queue("done");
    let p = Place::new(&[("localhost", &authority(&rabbit.url("")))]);
    p.mount.fill(&p.mount.queue("done"), 3);
    let told = p.mount.sh(&p.script("What these settings promise"));
    assert!(told.ok().contains("out: at least once") && told.ok().contains(r#""body":"m2""#), "{told:?}");
    assert_eq!((p.mount.stats("done")["ready"].as_u64(), rabbit.waiting("done")), (Some(3), 0), "it only looks");
    let line = recipe("Each minute, what has come");
    let command = line.strip_prefix("* * * * * ").expect("a line of crontab(5)");
    assert_eq!(p.mount.sh(&p.code(command)).ok(), "", "what is said is mailed");
    assert_eq!(rabbit.drain("done").len(), 3);
    assert_eq!(p.mount.sh(&p.code(command)).ok(), "", "there is nothing to do");
}

#[test]
fn a_topic_of_kafka_into_a_queue() {
    let Some(kafka) = kafka::shared() else { return };
    kafka.topic("orders", 2);
    kafka.publish("orders", 20);
    let ca = format!("mqfs link -o tls_ca={}", kafka.ca().display());
    let host = authority(&kafka.sasl_url(""));
    let p = Place::new(&[("k1.example,k2.example", &host), ("mqfs link", &ca)]);
    p.secret("orders", "user = carl\npassword = sesame\n");
    let q = p.mount.queue("orders");
    let _link = p.mount.spawn(&p.script("A topic of Kafka into a queue"));
    wait_until(|| p.mount.stats(&q)["ready"] == 20);
    wait_until(|| kafka.lag("orders", "mqfs") == 0);
}

/// Records in the order of each account, under its key; a file whose records cannot all be read is no message at all, and is tried
/// again.
#[test]
fn a_mainframes_batch() {
    let Some(kafka) = kafka::shared() else { return };
    kafka.topic("postings", 3);
    let p = Place::new(&[("k1.example,k2.example", &authority(&kafka.sasl_url("")))]);
    p.secret("postings", "user = carl\npassword = sesame\n");
    p.describe("postings", "A mainframe's batch to Kafka 2", &format!("tls_ca = {}\n", kafka.ca().display()));
    let (jobs, postings) = (p.mount.queue("jobs"), p.mount.queue("postings"));
    program(
        &p.mount.scratch().join("bin/iconv"),
        "#!/bin/sh\ntest ! -e $T/broken || test $FILE = ${FILE%5} || exit 1\nexec /usr/bin/iconv \"$@\"\n",
    );
    fs::write(p.mount.scratch().join("broken"), "").unwrap();
    let _splits = p.mount.spawn(&p.script("A mainframe's batch to Kafka"));
    let job = "import os\nrecords = (f'{n % 4:010} posting {n} Köln'.ljust(80) for n in range(12))\n\
               open(os.environ['T'] + '/job', 'wb').write(''.join(records).encode('cp037'))";
    p.mount.python(job).ok();
    p.mount.sh("cp $T/job jobs/").ok();
    wait_until(|| p.mount.stats(&jobs)["claims_total"].as_u64().unwrap() > 1);
    assert_eq!(p.mount.stats(&postings)["enqueued_total"], 0, "all or none");
    fs::remove_file(p.mount.scratch().join("broken")).unwrap();
    wait_until(|| p.mount.stats(&postings)["ready"] == 12 && p.mount.stats(&jobs)["acked_total"] == 1);
    p.mount.sh(&p.code("mqfs link --until-empty /etc/mqfs/link/postings.conf")).ok();
    let all = kafka.all("postings");
    for account in 0..4 {
        let key = format!("{account:010}");
        let mine: Vec<&str> = all.iter().filter(|(of, _, _)| *of == key).map(|(_, _, body)| body.trim_end()).collect();
        let due: Vec<String> = (0..3).map(|round| format!("{key} posting {} Köln", account + 4 * round)).collect();
        assert_eq!(mine, due);
    }
    assert_eq!(all.len(), 12);
}

#[test]
fn a_queue_of_rabbitmq_worked_off_by_a_script() {
    let rabbit = rabbit::shared();
    rabbit.queue("orders");
    let p = Place::new(&[("mq.example", &authority(&rabbit.url(""))), ("10s", "10ms")]);
    let _all = p.mount.spawn(&(p.script("A queue of RabbitMQ, worked off") + "wait\n"));
    rabbit.python(
        "for b in ['one', 'bad', 'two']: ch.basic_publish('', 'orders', b, P(headers={'colour': 'red'}, content_type='text/plain'))",
    );
    wait_until(|| {
        p.mount.path().join("failed").exists()
            && p.mount.stats("failed")["acked_total"] == 1
            && p.handled().iter().map(String::as_str).collect::<BTreeSet<_>>() == BTreeSet::from(["one", "two"])
    });
    assert_eq!(p.mount.stats("orders")["claims_total"], 5, "three tries of one, one of each other");
    let failed =
        "p, b = get('orders.failed'); print(b.decode(), p.headers['colour'], p.content_type, get('orders.failed'))";
    assert_eq!(rabbit.python(failed).trim(), "bad red text/plain None");
    assert_eq!(rabbit.waiting("orders"), 0);
}

/// A city without a worker keeps what it has taken, and no more than is said; a link that is killed gives the rest to the others.
/// Everything is done once.
#[test]
fn three_mounts_in_three_cities() {
    let rabbit = rabbit::shared();
    let host = authority(&rabbit.tls_url(""));
    let cities = [(); 3].map(|()| Place::new(&[("mq1.example,mq2.example,mq3.example", &host)]));
    let mut links = Vec::new();
    for p in &cities {
        p.secret("mq", "user = guest\npassword = guest\n");
        let ca = format!("tls_ca = {}\n", rabbit.ca().display());
        p.describe("jobs", "Three mounts in three cities 2", &ca);
        p.describe("work", "Three mounts in three cities 3", &ca);
        p.mount.sh(&p.script("Three mounts in three cities")).ok();
        links.push(p.mount.spawn(&p.code("exec mqfs link /etc/mqfs/link/jobs.conf")));
    }
    let work = |p: &Place| p.mount.spawn(&p.code("exec mqfs link /etc/mqfs/link/work.conf"));
    // The one where nobody works comes first, and takes all that it may.
    let idle = work(&cities[2]);
    for (city, p) in cities.iter().enumerate() {
        let jobs: String = (0..12).map(|n| format!("echo {city}-{n} > $T/job; cp $T/job jobs/{n}; ")).collect();
        p.mount.sh(&jobs).ok();
    }
    let told = cities[2].mount.scratch().join("mqfs-link/work.json");
    let holds = || fs::read_to_string(&told).is_ok_and(|status| status.contains(r#""state":"holding""#));
    wait_until(|| cities.iter().all(|p| p.mount.stats("jobs")["acked_total"] == 12) && holds());
    let taken = cities[2].mount.stats("work")["ready"].as_u64().unwrap() as usize;
    assert!((1..=8).contains(&taken), "{taken}");
    links.extend(cities[..2].iter().map(work));
    let workers = |p: &Place| p.mount.spawn(&p.code("exec mqfs consume work -- handle"));
    links.extend(cities[..2].iter().map(workers));
    let done = || cities.iter().map(|p| p.handled().len()).sum::<usize>();
    wait_until(|| done() >= 20);
    idle.signal(libc::SIGKILL);
    wait_until(|| done() == 36 - taken);
    assert_eq!(cities[2].mount.stats("work")["ready"], taken, "they stay its own");
    links.push(workers(&cities[2]));
    wait_until(|| done() == 36);
    let all: BTreeSet<String> = cities.iter().flat_map(Place::handled).collect();
    assert_eq!(all.len(), 36, "each once");
    assert_eq!(rabbit.waiting("work"), 0);
}
