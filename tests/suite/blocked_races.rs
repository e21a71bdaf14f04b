//! "overflow = block" with many producers, some of which are killed, and consumers that come and go: what is enqueued is never more
//! than is allowed, and what a producer was told is enqueued is delivered once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::extra::*;

const MESSAGES: u64 = 8;
const BYTES: u64 = 60_000;

/// Messages of random lengths in random pieces, lines, and drafts that are renamed; tells of each when it is enqueued.
const PRODUCER: &str = r"
import os, random, sys, time
who, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
lines = os.open('q/.mq/lines', os.O_WRONLY)
def write(fd, data):
    while data:
        data = data[os.write(fd, data):]
for n in range(count):
    text = f'{who}-{n}:'.encode()
    text += b'x' * random.choice([0, 0, 10, 1000, 9000, 14000]) + b'\n'
    kind = random.random()
    if kind < 0.2:
        write(lines, text)
    elif kind < 0.3:
        with open(f'q/.{who}', 'wb') as draft:
            draft.write(text)
        while True:
            try:
                os.rename(f'q/.{who}', f'q/{who}')
                break
            except BlockingIOError:
                time.sleep(0.01)
    else:
        fd = os.open(f'q/{who}', os.O_WRONLY | os.O_CREAT)
        while text:
            piece = random.randint(1, len(text) + 1)
            write(fd, text[:piece])
            text = text[piece:]
        os.close(fd)
    print(f'{who}-{n}', flush=True)
";

/// Acknowledges until it finds the word; tells of each before.
const CONSUMER: &str = r"
import os, random, sys, time
random.seed(int(sys.argv[1]))
while True:
    path = 'q/' + open('q/.mq/claim').read().strip()
    text = open(path).read()
    if text == 'stop':
        os.remove(path)
        break
    print(text.split(':')[0], len(text), flush=True)
    os.remove(path)
    if random.random() < 0.1:
        time.sleep(random.random() / 20)
";

fn count(text: &str) -> BTreeMap<String, u32> {
    let mut times = BTreeMap::new();
    for line in text.lines() {
        *times.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    times
}

#[test]
fn producers_and_consumers_race() {
    let mut random = Random::new();
    let m = Mount::new();
    let q = m.queue_with("q", &["overflow=block", "durability=async"]);
    m.set("q", &format!("max_messages={MESSAGES}\nmax_bytes={BYTES}"));
    let each = if full() { 400 } else { 25 };
    let start = |program: &str, arguments: &[String]| {
        let mut command = std::process::Command::new("python3");
        m.start_command(command.args(["-c", program]).args(arguments))
    };
    let mut seed = || random.below(1 << 30).to_string();
    let producers: Vec<_> = (0..6).map(|n| start(PRODUCER, &[format!("p{n}"), seed(), each.to_string()])).collect();
    let victims: Vec<_> = (0..3).map(|n| start(PRODUCER, &[format!("v{n}"), seed(), "100000".into()])).collect();
    let consumers: Vec<_> = (0..2).map(|_| start(CONSUMER, &[seed()])).collect();
    let begun = Instant::now();
    let limit = Duration::from_secs(if full() { 600 } else { 300 });
    let (mut producers, mut victims, mut ended) = (producers, victims, Vec::new());
    while !producers.is_empty() {
        assert!(begun.elapsed() < limit, "no progress: {}", m.stats("q"));
        let stats = m.stats("q");
        let sum = |what: &str| ["ready", "claimed"].map(|state| stats[format!("{state}{what}")].as_u64().unwrap());
        let (messages, bytes): (u64, u64) = (sum("").iter().sum(), sum("_bytes").iter().sum());
        assert!(messages <= MESSAGES && bytes <= BYTES, "{stats}");
        if random.below(40) == 0
            && let Some(victim) = victims.pop()
        {
            victim.signal(libc::SIGKILL);
            ended.push(victim.finish());
        }
        for n in (0..producers.len()).rev() {
            if !producers[n].is_running() {
                let ran = producers.remove(n).finish();
                ran.ok();
                ended.push(ran);
            }
        }
    }
    for victim in victims {
        victim.signal(libc::SIGKILL);
        ended.push(victim.finish());
    }
    wait_until(|| m.stats("")["writers"] == 0 && listing(&q).iter().all(|name| name.starts_with('.')));
    for _ in &consumers {
        m.sh("printf stop > q/stop").ok();
    }
    let got: String = consumers.into_iter().map(|consumer| consumer.finish().ok().to_owned()).collect();
    let got = count(&got);
    assert!(got.values().all(|times| *times == 1), "delivered twice: {got:?}");
    for told in ended.iter().flat_map(|ran| ran.stdout.lines()) {
        assert!(got.contains_key(told), "{told} was enqueued and not delivered");
    }
    let told: usize = ended.iter().map(|ran| ran.stdout.lines().count()).sum();
    assert!(got.len() - told <= 3, "each victim may have been killed before it could tell: {} {told}", got.len());
    let stats = m.stats("q");
    assert_eq!((stats["waiting_writers"].as_u64(), stats["expired_total"].as_u64()), (Some(0), Some(0)), "{stats}");
    // Nothing is reserved any more: it takes as much as ever.
    m.sh("for i in $(seq 8); do timeout 20 sh -c 'echo $0 > q/m' $i || exit; done").ok();
}
