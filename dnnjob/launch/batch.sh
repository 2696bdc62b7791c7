# Whether the job goes on is decided here, on the host: the task may run in a container without
# Slurm's commands, or may have been killed. Nothing but POSIX tools is needed, and no file of a run
# is read or changed: what happened is left as an event, of which `dnnjob status` makes the rest.

dnnjob_restarts=${SLURM_RESTART_COUNT:-0}
dnnjob_job=$SLURM_JOB_ID
# The number of an array's last element is that of the whole array: the pair is unmistakable.
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || dnnjob_job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
dnnjob_runs=$dnnjob_folder/runs_${SLURM_ARRAY_TASK_ID:-0}.txt
dnnjob_errors=$dnnjob_folder/${dnnjob_job}_0_log.err
# Earlier starts of this job have written there too.
dnnjob_old=$(wc -c 2>/dev/null <"$dnnjob_errors" || echo 0)
# Where the task says in each start which of its runs it is at: <this>_<restarts>_turn.txt.
dnnjob_turns=$dnnjob_folder/$dnnjob_job

# Hears what Slurm says of this job; nothing where it does not answer.
dnnjob_ask() {
    dnnjob_answer=$(scontrol show job -o "$dnnjob_job" 2>/dev/null | head -n 1)
}

# One field of what it said.
dnnjob_field() {
    printf '%s\n' "$dnnjob_answer" | sed -n "s/.* $1=\([^ ]*\).*/\1/p"
}

# Why Slurm ends this job, by what it said: slurm is that it has queued it anew by itself. Nothing
# while it does not end it. As its processes end, a job is COMPLETING, whatever the cause.
dnnjob_fate() {
    if [ "$(dnnjob_field Restarts)" -gt "$dnnjob_restarts" ] 2>/dev/null; then
        echo slurm
        return
    fi
    case "$(dnnjob_field JobState) $(dnnjob_field Reason) $(dnnjob_field PreemptTime)" in
    NODE_FAIL*) echo node_failure ;;
    PREEMPTED* | *' '[0-9]*) echo preempted ;;
    TIMEOUT* | *' TimeLimit '*) echo time_limit ;;
    COMPLETING* | CANCELLED*) echo cancelled ;;
    esac
}

# Whether Slurm has begun to end this job for good, beyond a preemption's time of grace.
dnnjob_is_ended() {
    case $(dnnjob_field JobState) in
    COMPLETING* | CANCELLED* | NODE_FAIL* | PREEMPTED* | TIMEOUT*) ;;
    *) return 1 ;;
    esac
}

# Leaves word in the folder of each run that is not complete: whether the job goes on ($1), why its
# task ended ($2) where that had no time to say so, and in which words ($3).
dnnjob_tell() {
    # JSON shall not find its own signs in a path or in Slurm's words.
    dnnjob_words=$(printf %s "${3:-}" | tr '[:cntrl:]' ' ' | tr -d '\\"')
    dnnjob_event=$(printf '{"writer": "batch", "job_id": "%s", "restarts": %d, "at": "%s", ' \
        "$dnnjob_job" "$dnnjob_restarts" "$(date -u +%Y-%m-%dT%H:%M:%SZ)")
    dnnjob_event="$dnnjob_event\"exit_code\": $dnnjob_rc, \"requeue\": \"$1\""
    [ -z "${2:-}" ] || dnnjob_event="$dnnjob_event, \"reason\": \"$2\""
    [ -z "$dnnjob_words" ] || dnnjob_event="$dnnjob_event, \"error\": \"$dnnjob_words\""
    [ -z "${dnnjob_memory_mb:-}" ] || dnnjob_event="$dnnjob_event, \"memory_mb\": $dnnjob_memory_mb"
    while IFS= read -r dnnjob_run; do
        dnnjob_run=$dnnjob_folder/$dnnjob_run
        [ -d "$dnnjob_run" ] && [ ! -e "$dnnjob_run/report.json" ] || continue
        dnnjob_file=$dnnjob_run/events/batch-${dnnjob_job}-$dnnjob_restarts.json
        mkdir -p "$dnnjob_run/events" && printf '%s}\n' "$dnnjob_event" >"$dnnjob_file.tmp" \
            && mv "$dnnjob_file.tmp" "$dnnjob_file"
    done <"$dnnjob_runs"
}

# Hears which of how many runs the task is at, and the code of that run where it has ended. Nothing
# in a start that did not come so far.
dnnjob_look() {
    dnnjob_turn='' dnnjob_count='' dnnjob_code=''
    dnnjob_file=${dnnjob_turns}_${dnnjob_restarts}_turn.txt
    [ ! -f "$dnnjob_file" ] || read -r dnnjob_turn dnnjob_count dnnjob_code <"$dnnjob_file" || :
}

# Whether a run was at work.
dnnjob_is_at_work() {
    [ -n "$dnnjob_turn" ] && [ -z "$dnnjob_code" ]
}

# Whether there are runs that it has not come to.
dnnjob_is_early() {
    [ "${dnnjob_turn:-0}" -lt "${dnnjob_count:-1}" ]
}

# Has Slurm queue the job anew, for the reason $1 where its task could not say why. Else no run goes
# on, and each says why.
dnnjob_requeue() {
    # First the word, then the deed: Slurm ends this script for it.
    dnnjob_tell asked "$1"
    # Starts in a row in which no run began; that Slurm took the nodes is no fault of theirs.
    dnnjob_vain=0
    while [ "$dnnjob_vain" -le "$dnnjob_restarts" ] \
        && [ ! -e "${dnnjob_turns}_$((dnnjob_restarts - dnnjob_vain))_turn.txt" ]; do
        dnnjob_vain=$((dnnjob_vain + 1))
    done
    dnnjob_most=3
    [ "$(dnnjob_fate)" != preempted ] || dnnjob_most=$dnnjob_max_requeues
    dnnjob_said="no run began in its last $dnnjob_vain starts"
    [ "$dnnjob_vain" -gt "$dnnjob_most" ] || ! dnnjob_insist "$1" || return
    dnnjob_tell refused "$1" "$dnnjob_said"
}

# Asks for the requeue, and again while the controller is being started anew. Fails where Slurm
# refuses, in its words. (0 is said: in a trap, bash returns what was before the trap.)
dnnjob_insist() {
    dnnjob_said='Slurm does not answer'
    for dnnjob_pause in 1 2 4 8 15 30 60 60 60 60 0; do
        # A job that Slurm has not spoken of may have been cancelled.
        if [ -n "$dnnjob_answer" ]; then
            dnnjob_said=$(scontrol requeue "$dnnjob_job" 2>&1) && return 0
        fi
        dnnjob_ask
        case $(dnnjob_fate) in
        slurm) dnnjob_tell slurm "$1"; return 0 ;;
        cancelled) dnnjob_tell cancelled cancelled; return 0 ;;
        esac
        # A command that says nothing was killed: Slurm ends the whole job for the asking.
        case ${dnnjob_answer:+$dnnjob_said} in
        '' | 'Slurm does not answer' | *[Cc]ontact*controller* | *[Cc]onnect*) ;;
        *imed\ out* | *ero\ [Bb]ytes* | *[Tt]ransport*) ;;
        *) return 1 ;;
        esac
        sleep $dnnjob_pause
    done
    return 1
}

# What becomes of a task that was stopped, by the fate of its job: it goes on, unless somebody
# cancelled it. $1 tells why, where it was no doing of Slurm's.
dnnjob_go_on() {
    case $(dnnjob_fate) in
    slurm) dnnjob_tell slurm "${1:-preempted}" ;;
    cancelled) dnnjob_tell cancelled cancelled ;;
    *) dnnjob_requeue "${1:-$(dnnjob_fate)}" ;;
    esac
}

# What becomes of a task that failed, with reason $1 and words $2 for the run that was at work: those
# that it did not come to run in its next start. One that gets nowhere, as with setup lines that
# fail, would get nowhere again.
dnnjob_fail() {
    if [ -n "$dnnjob_turn" ] && dnnjob_is_early; then
        dnnjob_go_on "$1"
    elif [ -z "$dnnjob_turn" ] && [ "$dnnjob_restarts" -gt 0 ]; then
        # It has begun before: perhaps this node alone is unfit.
        dnnjob_go_on
    else
        dnnjob_tell none "$1" "${2:-}"
    fi
}

# A task that does not answer Slurm's SIGTERM is killed, and with it this script, which waits for
# it. A second shell sees the signal come, and acts before it is killed too: Slurm grants a requeue
# by itself to the preempted, but not at the end of a time limit.
dnnjob_guard() {
    trap 'dnnjob_warned=yes' TERM
    trap : USR1 USR2
    trap - EXIT
    dnnjob_rc=143
    while :; do
        dnnjob_warned=
        while [ -z "$dnnjob_warned" ]; do
            kill -0 $$ || return
            sleep 5 &
            wait $!
        done
        # At once: what follows may come too late.
        dnnjob_ask
        case $(dnnjob_fate) in
        slurm) dnnjob_tell slurm preempted ;;
        preempted) dnnjob_tell asked preempted ;;
        time_limit) dnnjob_tell asked time_limit ;;
        esac
        # The task's own word is better, and it may still be writing its checkpoint.
        dnnjob_waited=0
        while [ "$((dnnjob_waited += 1))" -le "$dnnjob_patience_s" ]; do
            sleep 1 &
            wait $!
            kill -0 $$ || return
        done
        dnnjob_ask
        # Preemption may begin with a time of grace, of which a second signal tells the end.
        if dnnjob_is_ended || [ "$(dnnjob_fate)" = slurm ]; then
            dnnjob_go_on
            return
        fi
    done
}

dnnjob_end() {
    # Bash alone tells which command failed, also within a file that a setup line reads.
    dnnjob_rc=$? dnnjob_failed=${dnnjob_failed:-${BASH_COMMAND:-see above}}
    set +e
    trap - EXIT
    # A shell tells the end of a killed child, unless it is waited for in silence.
    { kill -KILL "$dnnjob_guard" && wait "$dnnjob_guard"; } 2>/dev/null
    # Slurm ends this script, too, once the job is queued anew; it has a few lines left.
    trap '' TERM
    [ "$dnnjob_rc" -eq 0 ] || dnnjob_ask
    dnnjob_look
    if [ "$dnnjob_rc" -eq 0 ]; then
        dnnjob_tell none
    elif [ -n "${dnnjob_setup:-}" ] && [ "$dnnjob_rc" -lt 128 ]; then
        dnnjob_words="A setup line of the profile failed with exit code $dnnjob_rc: $dnnjob_failed."
        printf '%s\n' "$dnnjob_words" >&2
        dnnjob_fail error "$dnnjob_words"
    elif [ "$(dnnjob_fate)" = slurm ]; then
        dnnjob_tell slurm preempted
    elif dnnjob_ran_out_of_memory; then
        dnnjob_memory_mb=$(dnnjob_peak)
        dnnjob_fail out_of_memory
    elif [ "$dnnjob_rc" -eq 75 ] || [ "$dnnjob_code" = 75 ]; then
        # The code of another task may hide that of the first.
        dnnjob_go_on
    elif [ "$dnnjob_rc" -ge 128 ] && ! dnnjob_is_at_work && dnnjob_is_early; then
        # A signal of Slurm's came before the task could listen to it.
        dnnjob_go_on
    elif [ "$dnnjob_rc" -ge 128 ] && dnnjob_is_at_work && dnnjob_is_ended; then
        dnnjob_go_on
    elif [ "$dnnjob_rc" -eq 142 ] && dnnjob_is_at_work; then
        # SIGALRM: the task waited in vain for TensorFlow of another one.
        dnnjob_go_on peer_lost
    else
        dnnjob_fail error
    fi
    exit "$dnnjob_rc"
}

# The memory in MiB with which Slurm last saw the task; nothing where it does not say.
dnnjob_peak() {
    dnnjob_bytes=$(dnnjob_said_now \
        | sed -n 's/.*exceeded memory limit (\([0-9][0-9]*\) > .*/\1/p' | tail -n 1)
    [ -z "$dnnjob_bytes" ] || echo $((dnnjob_bytes / 1048576))
}

dnnjob_said_now() {
    tail -c "+$((dnnjob_old + 1))" "$dnnjob_errors" 2>/dev/null
}

# Slurm's own words alone: libraries say such things of GPUs, and go on.
dnnjob_ran_out_of_memory() {
    dnnjob_said_now \
        | grep -qiE '^(slurmstepd|srun).*(oom[-_ ]kill|out of memory|exceeded memory limit)'
}

dnnjob_guard >/dev/null 2>&1 &
dnnjob_guard=$!
trap dnnjob_end EXIT
# They are for the task, which writes its checkpoint; this script waits for its end.
trap : TERM USR1 USR2
