"""What the process that has the mounts must never do, and what must not be done twice."""

from tests.mutations.mutation import Mutation

AGENT = "allocations/storage/agent.py"
UPKEEP = "allocations/storage/upkeep.py"
OWNERS = "allocations/storage/owners.py"
RIGHTS = "allocations/storage/rights.py"
SETTINGS = "allocations/storage/settings.py"
PROCESS = "allocations/storage_agent.py"
OF_AGENT = ("tests/storage/test_agent.py",)
OF_UPKEEP = ("tests/storage/test_upkeep.py",)
OF_SETTINGS = ("tests/storage/test_storage_settings.py",)
OF_DUTIES = ("tests/storage/test_agent_duties.py",)
OF_HOMES = ("tests/hub/test_hub_local.py",)

MUTATIONS = (
    Mutation(
        "a duty is done though another has it",
        AGENT,
        "        if not self._leads.take(duty.name, self._holder, self._duty_seconds):\n"
        "            return Outcome.ELSEWHERE\n"
        "        with",
        "        self._leads.take(duty.name, self._holder, self._duty_seconds)\n        with",
        OF_AGENT,
    ),
    Mutation(
        "what is lost to another counts as held",
        AGENT,
        "                        self._held.discard(name)\n                        log",
        "                        log",
        OF_AGENT,
    ),
    Mutation(
        "what another did since we looked is done again",
        AGENT,
        "            # Another may have done it between the look and the taking.\n"
        "            if not is_due and not self._is_due(duty):\n"
        "                return Outcome.NOT_DUE\n",
        "",
        OF_AGENT,
    ),
    Mutation(
        "what is broken off counts as done",
        AGENT,
        "            if whole:\n                self._leads.done",
        "            if True:\n                self._leads.done",
        OF_AGENT,
    ),
    Mutation(
        "a duty is not laid down",
        AGENT,
        "                self._leads.lay_down(name, self._holder)\n",
        "                pass\n",
        OF_AGENT,
    ),
    Mutation(
        "another disk in the place of ours is filled with new folders",
        UPKEEP,
        "        if len(lost) == len(known):\n",
        "        if False:\n",
        OF_UPKEEP,
    ),
    Mutation(
        "a folder that is gone is made anew",
        UPKEEP,
        "        return [area for area in areas if area.id not in lost]\n",
        "        return list(areas)\n",
        OF_UPKEEP,
    ),
    Mutation(
        "a taken place holds everybody up",
        UPKEEP,
        "            except IntegrityError:",
        "            except KeyError:",
        OF_UPKEEP,
    ),
    Mutation(
        "what the policy gives no more loses its limit",
        UPKEEP,
        "given = [area for area in there if limits[area.id] is not None or area.id in ended]",
        "given = list(there)",
        OF_UPKEEP,
    ),
    Mutation(
        "a measure does not stop when it is to",
        UPKEEP,
        "            if not goes_on():\n                break\n",
        "",
        OF_UPKEEP,
    ),
    Mutation(
        "what was measured a moment ago is measured again",
        UPKEEP,
        "or area.measured_at_ms <= before_ms",
        "or True",
        OF_UPKEEP,
    ),
    Mutation(
        "the problem of a measure is hidden by a limit",
        UPKEEP,
        "    is_over = area.problem is not None and area.problem.startswith(OF_LIMIT)",
        "    is_over = area.problem is not None",
        OF_UPKEEP,
    ),
    Mutation(
        "areas are written that are as they were",
        UPKEEP,
        "        changed = {area.id for area in areas if _has_changed(area, done.in_force, done.problems)}",
        "        changed = {area.id for area in areas}",
        OF_UPKEEP,
    ),
    Mutation(
        "an ended allocation gives the largest home",
        OWNERS,
        "    return max(by_payment[True] or by_payment[False], default=None)",
        "    return max(by_payment[True] + by_payment[False], default=None)",
        OF_UPKEEP,
    ),
    Mutation(
        "who has nothing in force has an area",
        OWNERS,
        "one.state in PAYING_STATES and one.tier in tiers",
        "one.tier in tiers",
        OF_UPKEEP,
    ),
    Mutation(
        "a folder can be called like another's",
        OWNERS,
        " and not _HASHED.fullmatch(name)",
        "",
        OF_UPKEEP,
    ),
    Mutation(
        "names of hashes are folders",
        OWNERS,
        " and _HASH_MARK not in name",
        "",
        OF_UPKEEP,
    ),
    Mutation(
        "a problem outlives its end",
        "allocations/storage/measures.py",
        "        if area.problem is not None:\n            self.store.change(connection, area.id, problem=None)\n",
        "",
        OF_UPKEEP,
    ),
    Mutation(
        "rights stay permitted",
        RIGHTS,
        "        word.permitted &= mask\n",
        "",
        OF_SETTINGS,
    ),
    Mutation(
        "rights stay within bounds",
        RIGHTS,
        "            if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) and",
        "            if",
        OF_SETTINGS,
    ),
    Mutation(
        "folders lie within one another",
        SETTINGS,
        "if folder.is_relative_to(its_folder) or its_folder.is_relative_to(folder):",
        "if folder == its_folder:",
        OF_SETTINGS,
    ),
    Mutation(
        "a place leads out of its folder",
        SETTINGS,
        'path = f"{folder}/{name_of(area.area)}"',
        'path = f"{folder}/{area.place}"',
        OF_SETTINGS,
    ),
    Mutation(
        "keys stand in the place of archives",
        SETTINGS,
        'if not parts.netloc or "@" in parts.netloc',
        "if not parts.netloc",
        OF_SETTINGS,
    ),
    Mutation(
        "a purge and a restore take each other's lock",
        PROCESS,
        'f"{holder}:restores-{name}"',
        'f"{holder}:purges-{name}"',
        OF_DUTIES,
    ),
    Mutation(
        "a purge does not halt with its process",
        PROCESS,
        '        if not goes_on():\n            raise HaltError("the process is to stop")\n',
        "",
        OF_DUTIES,
    ),
    Mutation(
        "a home is called like another's folder",
        "hub/spawner/homes.py",
        " and not _HASHED.fullmatch(name)",
        "",
        OF_HOMES,
    ),
    Mutation(
        "what has ended goes on growing",
        UPKEEP,
        "        ended = self.ended_bytes(there)\n",
        "        ended: dict[str, int] = {}\n",
        OF_UPKEEP,
    ),
)
