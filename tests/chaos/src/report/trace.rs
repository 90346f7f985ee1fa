//! The page of a simulated run, from the lines of its trace.
//!
//! Owns what of a trace can be drawn: who leads, who has a seat, who is down, what was asked and when it was answered. Times are
//! those of the simulation. Called by `chaos replay` and `chaos sim`.

use std::collections::BTreeMap;

use super::{Page, Span, buckets};

/// What is known while the lines go by.
#[derive(Default)]
struct Reader {
    page: Page,
    /// By number of the ticket: when it was asked.
    asked: BTreeMap<u64, u64>,
    answered: Vec<(u64, u64, u8)>,
    /// By member: since when it is down.
    down: BTreeMap<u64, (u64, String)>,
    end: u64,
}

/// A page with timeline, operations and configurations; title, verdict and findings are the caller's.
#[must_use]
pub fn of_trace(lines: &[String]) -> Page {
    let mut reader = Reader::default();
    for line in lines {
        reader.line(line);
    }
    reader.finish()
}

/// `[1, 2]` as numbers.
fn numbers(text: &str) -> Vec<u64> {
    text.split(',').filter_map(|number| number.trim().parse().ok()).collect()
}

/// What stands between `name [` and `]`.
fn list<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{name} ["))?;
    rest.split(']').next()
}

fn word_after<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(name)?.1.split([' ', ':', ',']).find(|word| !word.is_empty())
}

impl Reader {
    /// The place of a member on the page; new ones are added at the end.
    fn place(&mut self, member: u64) -> usize {
        let name = member.to_string();
        if let Some(place) = self.page.nodes.iter().position(|node| *node == name) {
            return place;
        }
        self.page.nodes.push(name);
        self.page.nodes.len() - 1
    }

    fn line(&mut self, line: &str) {
        let Some((time, rest)) = line.trim_start().split_once(' ') else { return };
        let Some(at) = nanoseconds(time) else { return };
        self.end = self.end.max(at);
        let Some((member, what)) = rest.split_once(' ') else { return };
        if member == "fault:" {
            let effect = "installed".to_owned();
            self.page.faults.push(Span {
                name: what.to_owned(),
                nodes: Vec::new(),
                from: at,
                to: at,
                effect,
                proof: String::new(),
            });
            return;
        }
        let Ok(member) = member.parse::<u64>() else { return };
        let place = self.place(member);
        if what.starts_with("is ") && what.contains(" term ") {
            self.standing(at, place, what);
        } else if what.starts_with("crashes") || what.starts_with("stops") {
            self.page.saw(at, place, None, &BTreeMap::new());
            self.down.insert(member, (at, what.to_owned()));
        } else if what.starts_with("starts") {
            self.up(at, member);
        } else if let Some(ticket) = word_after(what, "is asked, ticket ").and_then(|word| word.parse().ok()) {
            self.asked.insert(ticket, at);
        } else if let Some((ticket, answer)) =
            what.strip_prefix("answers ticket ").and_then(|rest| rest.split_once(':'))
        {
            let asked = ticket.parse().ok().and_then(|ticket: u64| self.asked.remove(&ticket));
            let kind = if answer.contains("refused") { 1 } else { u8::from(answer.contains("unknown")) * 2 };
            self.answered.push((at, at.saturating_sub(asked.unwrap_or(at)), kind));
        }
    }

    fn standing(&mut self, at: u64, place: usize, what: &str) {
        let term = word_after(what, " term ").and_then(|term| term.parse().ok()).unwrap_or(0);
        let mut seats = BTreeMap::new();
        for (list, seat) in [(list(what, "learners"), "standby"), (list(what, "voters"), "voter")] {
            seats.extend(
                numbers(list.unwrap_or_default()).into_iter().map(|member| (member.to_string(), seat.to_owned())),
            );
        }
        let leads = what.starts_with("is Leader ").then_some((1, term));
        self.page.saw(at, place, leads, &seats);
    }

    fn up(&mut self, at: u64, member: u64) {
        if let Some((from, why)) = self.down.remove(&member) {
            let nodes = vec![self.place(member)];
            let name = why.split([' ', ',']).next().unwrap_or("down").to_owned();
            self.page.faults.push(Span { name, nodes, from, to: at, effect: "installed".to_owned(), proof: why });
        }
    }

    fn finish(mut self) -> Page {
        let still: Vec<u64> = self.down.keys().copied().collect();
        for member in still {
            self.up(self.end, member);
        }
        self.page.operations = buckets(self.answered, self.end);
        self.page.end = self.end;
        self.page.unit = "s".to_owned();
        self.page
    }
}

/// `612.209948` milliseconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let (millis, below) = text.split_once('.')?;
    Some(millis.parse::<u64>().ok()? * 1_000_000 + below.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_becomes_leaders_seats_crashes_and_operations() {
        let lines = [
            "   546.219149 1 is Leader term 2 leader Some(1) commit 1 lease None voters [1] after [] learners [2, 3]",
            "   593.863165 1 is asked, ticket 2",
            "   594.863165 1 answers ticket 2: done",
            "   595.000000 2 is asked, ticket 3",
            "   599.000000 2 answers ticket 3: refused: no",
            "  1615.466682 1 crashes, keeps 0 unsynced batches",
            "  1633.812074 1 starts, boot 3",
            "  1700.000000 2 is Leader term 3 leader Some(2) commit 1 lease None voters [1, 2, 3] after [] learners []",
        ];
        let page = of_trace(&lines.map(str::to_owned));
        let led: Vec<_> = page.leaders.iter().map(|led| (led.node, led.term, led.from)).collect();
        assert_eq!(led, [(0, 2, 546_219_149), (1, 3, 1_700_000_000)]);
        assert_eq!(page.leaders[0].to, 1_615_466_682);
        assert_eq!(page.seats.last().unwrap().voters, ["1", "2", "3"]);
        assert_eq!(page.seats[0].standbys, ["2", "3"]);
        assert_eq!((page.faults.len(), page.faults[0].name.as_str()), (1, "crashes"));
        assert_eq!(
            page.operations.iter().map(|bucket| (bucket.ok, bucket.fail)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
            (1, 1)
        );
    }

    #[test]
    fn the_trace_of_a_real_simulation_can_be_drawn() {
        let config = crate::sim::SimConfig::draw(42, crate::sim::Profile::Swarm);
        let mut world = crate::sim::World::new(config).unwrap();
        world.keep_lines();
        world.play().unwrap();
        let page = of_trace(&world.take_lines());
        // If the words of the trace change, this is where it is noticed.
        assert!(!page.leaders.is_empty() && !page.seats.is_empty() && page.operations.len() > 10, "{page:?}");
    }
}
