//! Our rules in nf_tables: a table of our own that gives the node's address to
//! what goes through it and counts probes, and an accept where others drop what
//! they do not know.

use std::io;

use super::nft::{self, BaseChain, COMES_IN_BY, ChainType, Change, GOES_OUT_BY, INET, Nft, Rule};
use super::{Addresses, Family, HOST_END, probe};

/// Our table, and its chains.
const TABLE: &str = "blixt";
const SOURCES: &str = "postrouting";
const PROBES: &str = "probes";

/// Before others' (NF_IP_PRI_NAT_SRC is 100): theirs would do the same, or
/// leave it alone.
const BEFORE_OTHERS: i32 = 90;

/// After those of others that drop (NF_IP_PRI_FILTER is 0, NF_IP_PRI_SECURITY 50).
const AFTER_OTHERS: i32 = 250;

/// Those whose chains can drop what goes through the node.
const FAMILIES: [u8; 3] = [INET, nft::IPV4, nft::IPV6];

/// How many rules of ours a chain of others has: for what comes out of our pair,
/// and for what goes into it.
const RULES: usize = 2;

/// All that we have in nf_tables.
#[derive(Debug)]
pub(super) struct Rules {
    nft: Nft,
    /// The chains of others that have, or may have, rules of ours.
    touched: Vec<BaseChain>,
}

impl Rules {
    /// Makes our table.
    pub(super) fn make(addresses: &Addresses) -> io::Result<Self> {
        let mut nft = Nft::open()?;
        let chain =
            |name, kind, hook, priority| nft::new_chain(INET, TABLE, name, kind, hook, priority);
        // IPv4's comes first.
        let both = [addresses.of(true), addresses.of(false)];
        let sources = both.map(|address| {
            let expressions = Rule::default().source(address).count().masquerade();
            nft::new_rule(INET, TABLE, SOURCES, expressions)
        });
        // They have served when they come here.
        let probes = both.map(|address| {
            let probe = Rule::default().source(probe::source(address)).destination(address);
            nft::new_rule(INET, TABLE, PROBES, probe.count().verdict(nft::DROP))
        });
        let table = [
            nft::new_table(INET, TABLE),
            chain(SOURCES, ChainType::Nat, nft::POSTROUTING, BEFORE_OTHERS),
            chain(PROBES, ChainType::Filter, nft::FORWARD, AFTER_OTHERS),
        ];
        let changes: Vec<_> = table.into_iter().chain(sources).chain(probes).collect();
        nft.change(&changes)?;
        Ok(Self { nft, touched: Vec::new() })
    }

    /// How many probes of a family have passed what others have for what is
    /// forwarded, iptables-legacy too.
    pub(super) fn passed(&mut self, family: Family) -> io::Result<u64> {
        let counted = self.nft.counted(INET, TABLE, PROBES)?;
        let rule = usize::from(family == Family::V6);
        counted.get(rule).copied().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Lets our packets pass the chains that drop what reaches their end. What
    /// those chains decide before is theirs. Gives the chains that do not let us.
    pub(super) fn open_ways(&mut self) -> io::Result<Vec<String>> {
        let mut closed = Vec::new();
        let chains = self.nft.base_chains()?.into_iter();
        let others = chains.filter(|it| {
            it.hook == nft::FORWARD && FAMILIES.contains(&it.family) && it.table != TABLE
        });
        for chain in others {
            // An agent before us may have left some.
            let known = self.nft.rules_of_ours(&chain)?;
            if known.is_empty() && chain.policy != nft::DROP {
                continue;
            }
            let opened = match known.len() {
                RULES => Ok(()),
                _ => self.open_way(&chain, &known),
            };
            match opened {
                Ok(()) if self.touched.contains(&chain) => {}
                Ok(()) => self.touched.push(chain),
                Err(error) => {
                    let (family, BaseChain { table, name, .. }) = (family(&chain), chain);
                    closed.push(format!("{family} {table} {name} ({error})"));
                }
            }
        }
        Ok(closed)
    }

    fn open_way(&mut self, chain: &BaseChain, known: &[u64]) -> io::Result<()> {
        let old = known.iter().map(|number| nft::delete_rule(chain, *number));
        let new: [Change; RULES] = [COMES_IN_BY, GOES_OUT_BY].map(|which| {
            let expressions = Rule::default().device(which, HOST_END).count().verdict(nft::ACCEPT);
            nft::new_rule(chain.family, &chain.table, &chain.name, expressions)
        });
        let changes: Vec<_> = old.chain(new).collect();
        self.nft.change(&changes)
    }

    /// Takes our rules out of others' chains. Our table goes with the connection.
    pub(super) fn close(mut self) -> io::Result<()> {
        for chain in std::mem::take(&mut self.touched) {
            // Who has taken the chain away has taken the rules with it.
            let Ok(rules) = self.nft.rules_of_ours(&chain) else { continue };
            let changes: Vec<_> =
                rules.iter().map(|number| nft::delete_rule(&chain, *number)).collect();
            if !changes.is_empty() {
                self.nft.change(&changes)?;
            }
        }
        Ok(())
    }
}

fn family(chain: &BaseChain) -> &'static str {
    match chain.family {
        nft::IPV4 => "ip",
        nft::IPV6 => "ip6",
        _ => "inet",
    }
}
