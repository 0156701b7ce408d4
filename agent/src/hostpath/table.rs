//! Our rules in nf_tables: a table of our own that gives the node's address to
//! what goes through it, and an accept where others drop what they do not know.

use std::io;

use super::nft::{self, BaseChain, COMES_IN_BY, Change, GOES_OUT_BY, INET, Nft, Rule};
use super::{Addresses, HOST_END};

/// Our table, and its chain.
const TABLE: &str = "blixt";
const CHAIN: &str = "postrouting";

/// Before others' (NF_IP_PRI_NAT_SRC is 100): theirs would do the same, or
/// leave it alone.
const PRIORITY: i32 = 90;

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
        let rule = |rule: Rule| {
            let expressions = rule.count().masquerade();
            nft::new_rule(INET, TABLE, CHAIN, expressions)
        };
        nft.change(&[
            nft::new_table(INET, TABLE),
            nft::new_nat_chain(INET, TABLE, CHAIN, nft::POSTROUTING, PRIORITY),
            rule(Rule::default().source_v4(addresses.v4.octets())),
            rule(Rule::default().source_v6(addresses.v6.octets())),
        ])?;
        Ok(Self { nft, touched: Vec::new() })
    }

    /// Lets our packets pass the chains that drop what reaches their end. What
    /// those chains decide before is theirs. Gives the chains that do not let us.
    pub(super) fn open_ways(&mut self) -> io::Result<Vec<String>> {
        let mut closed = Vec::new();
        let chains = self.nft.base_chains()?.into_iter();
        for chain in chains.filter(|it| it.hook == nft::FORWARD && FAMILIES.contains(&it.family)) {
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
            let expressions = Rule::default().device(which, HOST_END).count().accept();
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
