//! The network between managers, to be cut: each is reached by the others through a forwarder of datagrams.
//!
//! Owns the forwarders. A manager says the forwarder's address as its own; clients go straight to where it listens, so
//! that both sides of a cut can be written to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::closed_port;

const LARGEST_DATAGRAM: usize = 65_535;

/// Where each manager listens, and on which side of the cut it is.
#[derive(Default)]
struct Plan {
    listening: Vec<SocketAddr>,
    sides: Vec<u8>,
    cut: bool,
}

impl Plan {
    fn passes(&self, from: SocketAddr, to: usize) -> bool {
        match self.listening.iter().position(|address| *address == from) {
            Some(from) => self.sides[from] == self.sides[to],
            // Whoever is no manager (a newcomer, a recovery that asks around) is on no side.
            None => !self.cut,
        }
    }
}

pub struct Wires {
    plan: Arc<Mutex<Plan>>,
    fronts: Vec<SocketAddr>,
    forwarders: Vec<JoinHandle<()>>,
}

impl Wires {
    pub async fn new(managers: usize) -> Self {
        let listening: Vec<SocketAddr> = (0..managers).map(|_| closed_port().parse().unwrap()).collect();
        let plan = Arc::new(Mutex::new(Plan { listening, sides: vec![0; managers], cut: false }));
        let (mut fronts, mut forwarders) = (Vec::new(), Vec::new());
        for manager in 0..managers {
            let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            fronts.push(front.local_addr().unwrap());
            forwarders.push(tokio::spawn(forward(front, manager, Arc::clone(&plan))));
        }
        Self { plan, fronts, forwarders }
    }

    /// Where a manager listens.
    pub fn listening(&self, manager: usize) -> String {
        self.plan.lock().unwrap().listening[manager].to_string()
    }

    /// Where the others reach it.
    pub fn front(&self, manager: usize) -> String {
        self.fronts[manager].to_string()
    }

    /// Cuts these managers off from all others, in both directions.
    pub fn cut(&self, apart: &[usize]) {
        let mut plan = self.plan.lock().unwrap();
        for manager in apart {
            plan.sides[*manager] = 1;
        }
        plan.cut = true;
    }

    pub fn heal(&self) {
        let mut plan = self.plan.lock().unwrap();
        plan.sides.fill(0);
        plan.cut = false;
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for forwarder in &self.forwarders {
            forwarder.abort();
        }
    }
}

/// What comes for one manager goes on from a socket for each sender, and back the same way.
async fn forward(front: Arc<UdpSocket>, to: usize, plan: Arc<Mutex<Plan>>) {
    let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut back = JoinSet::new();
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        let Ok((length, from)) = front.recv_from(&mut datagram).await else { continue };
        let target = {
            let plan = plan.lock().unwrap();
            if !plan.passes(from, to) {
                continue;
            }
            plan.listening[to]
        };
        if let std::collections::hash_map::Entry::Vacant(vacant) = ways.entry(from) {
            let way = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            way.connect(target).await.unwrap();
            back.spawn(answer(Arc::clone(&way), Arc::clone(&front), from, to, Arc::clone(&plan)));
            vacant.insert(way);
        }
        // (A manager that is off refuses; datagrams may be lost.)
        let _ = ways[&from].send(&datagram[..length]).await;
    }
}

async fn answer(way: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, from: usize, plan: Arc<Mutex<Plan>>) {
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        let Ok(length) = way.recv(&mut datagram).await else { continue };
        if plan.lock().unwrap().passes(to, from) {
            let _ = front.send_to(&datagram[..length], to).await;
        }
    }
}
