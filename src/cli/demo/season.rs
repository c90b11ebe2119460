//! A made-up season: leagues, teams, fixtures, goals.
//!
//! **Invariant**: a season is a function of its seed and its number alone; a match's events are in order, and its running
//! score adds up to the score at full time.

use serde_json::{Map, Value, json};

const LEAGUES: [(&str, [&str; 8]); 4] = [
    (
        "Harbour League",
        ["Portwick", "Saltmere", "Gullstone", "Anchorby", "Tidewell", "Mastholm", "Quayford", "Bellhaven"],
    ),
    (
        "Mountain League",
        ["Kestrel Peak", "Stonebrook", "Larchdale", "Crag United", "Snowdrift", "Pinecross", "Ridgeway", "Valdenne"],
    ),
    (
        "River League",
        ["Otterford", "Millbank", "Reedham Vale", "Bridgeton", "Weirside", "Heronsea", "Fernlock", "Willowby"],
    ),
    (
        "Capital League",
        ["Old Mint", "Lanternside", "Clockworth", "Orchard Row", "Brickfield", "Northgate", "Tramway", "Glasshouse"],
    ),
];
const PLAYERS: [&str; 20] = [
    "A. Okoro",
    "B. Lindqvist",
    "C. Marchetti",
    "D. Novak",
    "E. Tanaka",
    "F. Oliveira",
    "G. Haddad",
    "H. Sørensen",
    "I. Petrov",
    "J. Whitlock",
    "K. Mensah",
    "L. Fontaine",
    "M. Castellano",
    "N. Iyer",
    "O. Brandt",
    "P. Kowalczyk",
    "R. Delgado",
    "S. Aaltonen",
    "T. Mbeki",
    "V. Rousseau",
];
/// Minutes from one round's first kick-off to the next one's: a match, its break, and some quiet.
const ROUND_MINUTES: f64 = 130.0;
/// The matches of a round begin within this many minutes.
const KICKOFF_SPREAD: u64 = 15;
/// Between the halves.
const BREAK_MINUTES: u32 = 15;
/// How probable a goal is in each minute, for the side at home and its guest; about 2.8 in a match.
const GOAL_PER_MINUTE: [f64; 2] = [0.0170, 0.0140];

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct SeasonEvent {
    /// Minutes since the season began.
    pub at_minutes: f64,
    /// The match.
    pub key: String,
    /// What happens.
    pub value: Value,
}

/// Every event of a season, in the order of time.
#[must_use]
pub fn season(seed: u64, number: u32) -> Vec<SeasonEvent> {
    let mut random = Random(seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut events = Vec::new();
    for (league, teams) in LEAGUES {
        for (round, pairs) in fixtures(teams.len()).into_iter().enumerate() {
            for (home, away) in pairs {
                let kickoff = round as f64 * ROUND_MINUTES + random.below(KICKOFF_SPREAD) as f64;
                let game = Match { number, league, round: round + 1, teams: [teams[home], teams[away]] };
                game.play(kickoff, &mut random, &mut events);
            }
        }
    }
    // Stable: what happens in one match at one moment keeps its order.
    events.sort_by(|a, b| a.at_minutes.total_cmp(&b.at_minutes));
    events
}

/// Each against each, at home and away, in rounds in which everybody plays once (the circle method: one stays, the
/// others walk around it).
fn fixtures(teams: usize) -> Vec<Vec<(usize, usize)>> {
    let walk = teams - 1;
    let first_half: Vec<Vec<(usize, usize)>> = (0..walk)
        .map(|round| {
            let place = |i: usize| (round + i) % walk;
            let fixed = if round % 2 == 0 { (walk, place(0)) } else { (place(0), walk) };
            let others = (1..teams / 2).map(|i| (place(i), place(walk - i)));
            std::iter::once(fixed).chain(others).collect()
        })
        .collect();
    let second_half = first_half.iter().map(|pairs| pairs.iter().map(|(home, away)| (*away, *home)).collect());
    first_half.iter().cloned().chain(second_half).collect()
}

struct Match {
    number: u32,
    league: &'static str,
    round: usize,
    teams: [&'static str; 2],
}

impl Match {
    fn play(&self, kickoff: f64, random: &mut Random, events: &mut Vec<SeasonEvent>) {
        let slug = |text: &str| text.to_lowercase().replace(' ', "-");
        let league = slug(self.league.trim_end_matches(" League"));
        let key = format!("s{}-{league}-r{}-{}-{}", self.number, self.round, slug(self.teams[0]), slug(self.teams[1]));
        let mut score = [0_u32, 0];
        let mut emit = |at_minutes: f64, kind: &str, score: [u32; 2], more: Value| {
            let mut value = Map::new();
            value.insert("type".to_owned(), kind.into());
            value.insert("match".to_owned(), key.clone().into());
            value.insert("league".to_owned(), self.league.into());
            value.insert("round".to_owned(), format!("Round {}", self.round).into());
            value.insert("team1".to_owned(), self.teams[0].into());
            value.insert("team2".to_owned(), self.teams[1].into());
            value.extend(more.as_object().cloned().unwrap_or_default());
            value.insert("score".to_owned(), json!(score));
            events.push(SeasonEvent { at_minutes, key: key.clone(), value: Value::Object(value) });
        };
        emit(kickoff, "kickoff", score, json!({"minute": 0}));
        for minute in 1..=90_u32 {
            let pause = if minute > 45 { BREAK_MINUTES } else { 0 };
            for side in [0, 1] {
                if random.chance(GOAL_PER_MINUTE[side]) {
                    score[side] += 1;
                    // Within its minute, so that the matches do not tick together.
                    let at = kickoff + f64::from(minute - 1 + pause) + 0.5 * (side as f64 + random.fraction());
                    let player = PLAYERS[random.below(PLAYERS.len() as u64) as usize];
                    let more = json!({"minute": minute, "team": self.teams[side], "player": player});
                    emit(at, "goal", score, more);
                }
            }
            if minute == 45 {
                emit(kickoff + 45.0, "half_time", score, json!({"minute": 45}));
            }
        }
        emit(kickoff + f64::from(90 + BREAK_MINUTES), "full_time", score, json!({"minute": 90}));
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_season_is_the_same_each_time_and_another_for_another_seed() {
        assert_eq!(season(7, 1), season(7, 1));
        assert_ne!(season(7, 1), season(8, 1));
        assert_ne!(season(7, 1), season(7, 2));
    }

    #[test]
    fn everybody_meets_everybody_twice_and_plays_once_a_round() {
        let rounds = fixtures(8);
        assert_eq!(rounds.len(), 14);
        for pairs in &rounds {
            let playing: BTreeSet<_> = pairs.iter().flat_map(|(a, b)| [a, b]).collect();
            assert_eq!(playing.len(), 8, "{pairs:?}");
        }
        let all: BTreeSet<_> = rounds.into_iter().flatten().collect();
        assert_eq!(all.len(), 8 * 7);
    }

    #[test]
    fn scores_add_up_and_each_match_runs_from_kickoff_to_full_time() {
        let mut matches: BTreeMap<String, Vec<SeasonEvent>> = BTreeMap::new();
        let events = season(1, 1);
        assert!(events.is_sorted_by(|a, b| a.at_minutes <= b.at_minutes));
        for event in events {
            assert_eq!(event.value["match"], Value::String(event.key.clone()));
            matches.entry(event.key.clone()).or_default().push(event);
        }
        assert_eq!(matches.len(), 4 * 56);
        let mut goals = 0;
        for (key, events) in &matches {
            let kinds: Vec<_> = events.iter().map(|e| e.value["type"].as_str().unwrap()).collect();
            assert_eq!((kinds[0], *kinds.last().unwrap()), ("kickoff", "full_time"), "{key}");
            assert_eq!(kinds.iter().filter(|k| **k == "half_time").count(), 1);
            let mut score = [0, 0];
            for event in events {
                if event.value["type"] == "goal" {
                    score[usize::from(event.value["team"] == event.value["team2"])] += 1;
                    goals += 1;
                }
                assert_eq!(event.value["score"], json!(score), "{event:?}");
            }
        }
        assert!((400..1000).contains(&goals), "{goals} goals in {} matches", matches.len());
    }
}
