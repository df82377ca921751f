//! A TCP proxy before the broker: a link that can be slow, cut, half open or corrupt.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How bytes pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// As they come.
    Good,
    /// Each piece so many milliseconds later.
    Slow(u64),
    /// Not at all, in either direction, and nobody is told.
    HalfOpen,
    /// Of the bytes from the broker, about one in this many is another.
    Corrupt(u32),
}

/// What passes at once.
const PIECE: usize = 16 * 1024;
/// How often a half-open link is looked at.
const POLL: Duration = Duration::from_millis(10);

struct Shared {
    link: Mutex<Link>,
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    corrupted: AtomicU64,
    seed: u64,
}

/// Listens on a port of its own until it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A good link to a port of this machine.
    pub fn to(port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            link: Mutex::new(Link::Good),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
            corrupted: AtomicU64::new(0),
            seed,
        });
        let all = Arc::clone(&shared);
        thread::spawn(move || {
            for (number, client) in (0u64..).zip(listener.incoming()) {
                if all.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), Ok(broker)) = (client, TcpStream::connect(("127.0.0.1", port))) else {
                    continue;
                };
                connect(&all, &client, &broker, number);
            }
        });
        Self { port: own, shared }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients find the broker through it.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on, of connections that are open too.
    pub fn set(&self, link: Link) {
        *self.shared.link.lock().expect("no panic under the lock") = link;
    }

    /// Ends every open connection. Returns how many ends that were.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.shared.open.lock().expect("no panic under the lock"));
        open.iter().for_each(|stream| _ = stream.shutdown(Shutdown::Both));
        open.len()
    }

    /// How many bytes were corrupted.
    pub fn corrupted(&self) -> u64 {
        self.shared.corrupted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // The listener wakes up, and sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(shared: &Arc<Shared>, client: &TcpStream, broker: &TcpStream, number: u64) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("clone a socket");
    shared.open.lock().expect("no panic under the lock").extend([clone(client), clone(broker)]);
    for (from, to, down) in [(clone(client), clone(broker), false), (clone(broker), clone(client), true)] {
        let shared = Arc::clone(shared);
        let random = SmallRng::seed_from_u64(shared.seed ^ (number * 2 + u64::from(down)));
        thread::spawn(move || {
            let _ = pass(&shared, &from, &to, down, random);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

fn pass(
    shared: &Shared,
    mut from: &TcpStream,
    mut to: &TcpStream,
    down: bool,
    mut random: SmallRng,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 || shared.ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        let link = || *shared.link.lock().expect("no panic under the lock");
        while link() == Link::HalfOpen {
            if shared.ended.load(Ordering::SeqCst) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        match link() {
            Link::Slow(ms) => thread::sleep(Duration::from_millis(ms)),
            Link::Corrupt(one_in) if down => {
                for byte in &mut piece[..length] {
                    if random.random_ratio(1, one_in) {
                        *byte ^= 1 << random.random_range(0..8);
                        shared.corrupted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            Link::Good | Link::HalfOpen | Link::Corrupt(_) => {}
        }
        to.write_all(&piece[..length])?;
    }
}
