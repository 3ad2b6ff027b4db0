# The virtualenv of this checkout, completed extra by extra. Sourced by bin/quickstart and bin/test, which set
# PROGRAM, the name their messages begin with.
#
# .venv/.tierflow-place   where we made it; another content means unfinished, or moved since: it is made anew
# .venv/.tierflow-EXTRA   fingerprint of what this extra was installed from: nothing to do while it is the same
# .venv/.tierflow-toy     the physics package that has no wheel for this Python

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 1
VENV=$ROOT/.venv
SUITED="python3.13 python3.12 python3.11 python3 python3.14" # 3.14 last: chromo has no wheel for it yet
PHYSICS="chromo|uproot|awkward|awkward_cpp|particle|matplotlib|numpy|scipy" # as constraints.txt spells them
NEEDED_MB=700 # 420 installed, the rest while pip unpacks
DEBIAN="on Debian and Ubuntu: apt-get install python3-venv"

PROBE='
import sys
if sys.version_info < (3, 11):
    sys.stdout.write("old %d.%d.%d" % tuple(sys.version_info[:3]))
else:
    try:
        import ensurepip, venv
        sys.stdout.write("good")
    except ImportError:
        sys.stdout.write("bare")
'
LOCK='
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("%s: waiting for another installation into the same .venv ...\n" % sys.argv[1])
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks: go on
'

unset PYTHONHOME PYTHONPATH
export PIP_USER=0
# Without a home pip would put its cache at an odd place.
if [ ! -d "${HOME:-}" ] || [ ! -w "$HOME" ]; then export PIP_NO_CACHE_DIR=1; fi

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# with_extras EXTRA...: .venv has these extras when this returns; it takes no time where it has them already.
with_extras() {
    has "$@" && return
    check_place
    find_python
    exec 9>>"$ROOT/constraints.txt" # NFS locks only what is open for writing; nothing is written
    "$PYTHON" -c "$LOCK" "$PROGRAM"
    has "$@" || install_extras "$@"
    exec 9>&-
}

fingerprint() {
    { echo "$ROOT" && cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt"; } | cksum
}

has() {
    [ -x "$VENV/bin/python" ] || return 1
    for extra; do
        [ "$(cat "$VENV/.tierflow-$extra" 2>/dev/null)" = "$(fingerprint)" ] || return 1
    done
}

check_place() {
    if [ ! -w "$ROOT" ] || [ ! -w "$ROOT/constraints.txt" ]; then
        die "no write permission in $ROOT; make a clone of your own, or chown this one"
    fi
    [ ! -e "$VENV" ] || return 0
    free=$(df -Pk "$ROOT" | awk 'NR == 2 { print int($4 / 1024) }')
    if [ "${free:-$NEEDED_MB}" -lt "$NEEDED_MB" ]; then
        die "the disk of $ROOT has $free MB free; free $NEEDED_MB MB, or clone to a larger disk"
    fi
}

# Sets PYTHON to one that is new enough and can make virtualenvs. Where the user set it, nothing else will do.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" && return
        die "${fault:-PYTHON=$PYTHON does not run; set it to a Python 3.11 or newer}"
    fi
    for PYTHON in $SUITED; do
        suits "$PYTHON" && return
    done
    die "${fault:-no Python found; install Python 3.11 or newer, or set PYTHON=/path/to/python3}"
}

# Whether this Python will do; if not, `fault` says why. One too old does not hide a better one without venv.
suits() {
    case $("$1" -c "$PROBE" 2>/dev/null) in
    good) return 0 ;;
    bare) fault="$1 lacks venv or ensurepip; $DEBIAN" ;;
    old*) fault=${fault:-"$1 is too old, Tierflow needs 3.11; install a newer Python, or set PYTHON=/path/to/it"} ;;
    esac
    return 1
}

install_extras() {
    begun=$(date +%s)
    remove_unfinished
    [ -e "$VENV" ] || make_venv
    rm -f "$VENV/.tierflow-toy"
    say "installing Tierflow ($*) into $VENV: less than a minute ..."
    wanted=$(IFS=,; echo "$*")
    SAID=$(pip_install -c constraints.txt -e ".[$wanted]") || install_without_physics
    for extra; do
        fingerprint >"$VENV/.tierflow-$extra"
    done
    if [ -e "$VENV/.tierflow-place" ]; then echo "$ROOT" >"$VENV/.tierflow-place"; fi
    say "installed in $(($(date +%s) - begun)) s"
}

# Only what we made ourselves is ever removed; a virtualenv of the user's own is completed by pip.
remove_unfinished() {
    [ -e "$VENV/.tierflow-place" ] || return 0
    if [ "$(cat "$VENV/.tierflow-place")" != "$ROOT" ] || [ ! -x "$VENV/bin/python" ]; then
        say "$VENV is unfinished or was moved: making it anew"
        rm -rf "$VENV"
    fi
}

make_venv() {
    say "making $VENV with $PYTHON"
    SAID=$({ mkdir "$VENV" && echo unfinished >"$VENV/.tierflow-place" && "$PYTHON" -m venv "$VENV"; } 2>&1) ||
        die "$(reason "cannot make $VENV" "$DEBIAN")"
}

# pip_install ARGUMENT...: from wheels only; all it says on stdout. Python compiles what it imports: compiling all
# of it here would take longer than the rest.
pip_install() {
    cd "$ROOT" && .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
        --no-compile --only-binary :all: "$@" 2>&1
}

install_without_physics() {
    missing=$(missing_wheel)
    case ,$wanted,$missing in
    *,demo,*[a-z]) ;;
    *) die "$(reason "pip failed" "see it all: cd $ROOT && .venv/bin/pip install -c constraints.txt -e '.[$wanted]'")" ;;
    esac
    say "pip finds no wheel of $missing for this Python: installing without the physics packages"
    rest=$(echo "$wanted" | sed 's/demo,*//; s/,$//')
    SAID=$(pip_install -c constraints.txt -e ".${rest:+[$rest]}") || die "$(reason "pip failed" "try again")"
    echo "$missing" >"$VENV/.tierflow-toy"
}

# The physics package without a wheel, if that is what pip failed of. It calls a missing wheel of a constrained
# package a conflict, so ask for each alone.
missing_wheel() {
    case $SAID in
    *"Retrying ("*) return ;;
    *"No matching distribution found"* | *ResolutionImpossible*) ;;
    *) return ;;
    esac
    SAID=$(grep -E "^($PHYSICS)==" "$ROOT/constraints.txt" |
        pip_install --dry-run --ignore-installed --no-deps -r /dev/stdin) && return
    case $SAID in
    *"Retrying ("*) ;;
    *) said | sed -n 's/^ERROR: No matching distribution found for \([A-Za-z0-9_.-]*\).*/\1/p' | tail -n 1 ;;
    esac
}

said() { printf '%s\n' "$SAID"; }

# reason DEED CURE: one line on why DEED failed, from what it said; CURE is for what is not recognised.
reason() {
    last=$(said | grep -i '^ *error: ' | grep -v subprocess-exited | tail -n 1 | sed 's/^[^:]*: *//')
    last=${last:-$(said | tail -n 1)}
    case $SAID in
    *"No space left"* | *"Errno 28"* | *"quota exceeded"*)
        echo "the disk is full; free $NEEDED_MB MB on that of $ROOT and of ${TMPDIR:-/tmp}, and start again" ;;
    *"Retrying ("* | *"Could not fetch URL"* | *"HTTP error"*)
        echo "pip cannot reach the package registry ($last); check network and proxy, or set PIP_INDEX_URL" ;;
    *"Permission denied"* | *"Errno 13"* | *"Read-only file system"*)
        echo "no write permission ($last); make a clone of your own, or chown this one" ;;
    *"No module named pip"*)
        echo "$VENV has no pip; remove it (rm -rf $VENV) and start again" ;;
    *) echo "$1: $last; $2" ;;
    esac
}
