#!/usr/bin/env python3
"""Looks at the status page with a real Chromium, in each state that an operator may find it in, and keeps a picture of each.

    status_page.py PROGRAMS NATS_SERVER FOLDER

PROGRAMS: where `watcher` and `replicator` are. What is not seen in time fails it.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

BIN, NATS, B = sys.argv[1:]
W = B + "/work"
shutil.rmtree(W, ignore_errors=True)
os.makedirs(W)
procs = {}


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


DRIVER, BROKER, HTTP = free(), free(), {name: free() for name in "abc"}


def go(k,*a):
    env = {k: v for k, v in os.environ.items() if k != 'RUST_LOG'}
    procs[k]=subprocess.Popen(a,stdout=open(f'{W}/{k}.log','w'),stderr=subprocess.STDOUT,env=env)
def end(k): p=procs.pop(k); p.send_signal(signal.SIGKILL); p.wait()
def broker(): go('nats',NATS,'-js','-sd',W+'/js','-p',str(BROKER),'-a','127.0.0.1')
def node(n,*roles):
    os.makedirs(f'{W}/{n}',exist_ok=True)
    for i,r in enumerate(roles):
        port='off' if r=='watcher' else f'127.0.0.1:{HTTP[n]}'
        go(n+r,f'{BIN}/{r}','run','--root',f'{W}/{n}','--state',f'{W}/{n}.state','--node',n,'--mirror','media','--nats-url',f'nats://127.0.0.1:{BROKER}','--http',port)
def wd(m,p,b=None):
    r=urllib.request.Request(f'http://127.0.0.1:{DRIVER}'+p,method=m,data=None if b is None else json.dumps(b).encode(),headers={'Content-Type':'application/json'})
    return json.load(urllib.request.urlopen(r,timeout=60))['value']
def js(s,*a): return wd('POST',f'/session/{S}/execute/sync',{'script':s,'args':list(a)})
def until(what,s,t=40):
    e=time.time()+t
    while time.time()<e:
        if js('return '+s): print('seen:',what,flush=True); return True
        time.sleep(.2)
    raise SystemExit(f'not seen: {what}: ' + js('return document.body.innerText')[:700])
def media(dark): wd('POST',f'/session/{S}/goog/cdp/execute',{'cmd':'Emulation.setEmulatedMedia','params':{'features':[{'name':'prefers-color-scheme','value':'dark' if dark else 'light'}]}})
def size(w,h): wd('POST',f'/session/{S}/goog/cdp/execute',{'cmd':'Emulation.setDeviceMetricsOverride','params':{'width':w,'height':h,'deviceScaleFactor':1,'mobile':False}})
def shot(n,w=900,dark=False):
    size(w,700); media(dark); time.sleep(.3); h=js('return document.documentElement.scrollHeight'); size(w,min(h,1600)); time.sleep(.3)
    assert not js('return document.documentElement.scrollWidth>innerWidth'), f'{n} is too wide'
    open(f'{B}/{n}.png','wb').write(base64.b64decode(wd('GET',f'/session/{S}/screenshot')))
H="document.querySelector('#verdict h2').textContent"
try:
    go('cd','chromedriver',f'--port={DRIVER}'); broker(); time.sleep(1)
    node('a','watcher','replicator'); node('b','watcher','replicator'); node('c','watcher','replicator'); time.sleep(3)
    S=wd('POST','/session',{'capabilities':{'alwaysMatch':{'goog:chromeOptions':{'args':['--headless=new','--no-sandbox','--disable-gpu']}}}})['sessionId']
    for i in range(8): open(f'{W}/a/picture-{i}.jpg','wb').write(os.urandom(40000*(i+1)))
    wd('POST',f'/session/{S}/url',{'url':f"http://127.0.0.1:{HTTP['b']}/"})
    until('all well',H+".startsWith('Every file is on every')")
    evil='<img src=x onerror=window.hit=1>.jpg'; open(f'{W}/a/{evil}','wb').write(b'x'*900)
    until('live upload, as text',"[...document.querySelectorAll('#events bdi')].some(e=>e.textContent=='%s')"%evil)
    assert js('return !window.hit && document.images.length === 0'), 'a name became an element'
    time.sleep(9); until('all well','%s.startsWith("Every file is on every node")'%H); shot('all-well'); shot('all-well-phone',390,True)
    os.symlink('nowhere',f'{W}/b/taken.png'); open(f'{W}/a/taken.png','wb').write(b'taken')
    until('parked',"!document.querySelector('#parked').hidden",90); time.sleep(2.5); shot('parked-events'); shot('parked-phone',390)
    os.unlink(f'{W}/b/taken.png'); js("document.querySelector('button.retry').click()")
    until('retried and gone',"document.querySelector('#parked').hidden")
    procs['creplicator'].send_signal(signal.SIGSTOP)
    for i in range(5): open(f'{W}/a/late-{i}.jpg','wb').write(os.urandom(9000))
    until('behind',H+"=='Files are on their way'"); time.sleep(1); shot('one-node-behind')
    until('down',"document.querySelector('#verdict').innerText.includes('down')"); shot('one-node-down',900,True)
    procs['creplicator'].send_signal(signal.SIGCONT); until('well again',H+".startsWith('Every file is on every node')",60)
    end('nats'); until('broker away',H+"=='The broker is away'"); time.sleep(1); shot('broker-away')
    broker(); until('well after',H+".startsWith('Every file is on every node')",60)
    said = [line['message'] for line in wd('POST', f'/session/{S}/se/log', {'type': 'browser'})]
    odd = [line for line in said if 'Failed to load' not in line and 'ERR_' not in line]
    assert not odd, odd
finally:
    try: wd('DELETE',f'/session/{S}')
    except Exception: pass
    for k in list(procs): end(k)
